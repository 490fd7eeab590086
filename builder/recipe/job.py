"""From a recipe's cell to the job of making it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.model.locks import Job
from builder.recipe.matrix import platform_of, specify

if TYPE_CHECKING:
    from builder.model.recipes import Cell, Recipe


def job_of(recipe: Recipe, cell: Cell) -> Job:
    """Return a cell with everything that is needed to make it.

    Raises:
        RecipeError: the cell is declared impossible.
    """
    return Job(recipe=recipe, cell=cell, spec=specify(recipe, cell), platform=platform_of(recipe, cell))

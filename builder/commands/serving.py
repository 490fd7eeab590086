"""What the verbs about running images share: options, and the one cell that is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder.errors import RecipeError, UsageError
from builder.resolve.jobs import job_of
from builder.serve.service import parse_published

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.recipe.model import Cell, Recipe
    from builder.resolve.model import Job
    from builder.serve.model import Published


def _published(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Published | None:
    return parse_published(value) if value else None


board_option = click.option(
    "--board", metavar="NAME", help="The board that it runs on; default: this one, else the recipe's only one."
)
image_option = click.option("--image", metavar="REFERENCE", help="Run this image instead of the cell's own.")
publish_option = click.option(
    "--publish",
    "published",
    metavar="[ADDRESS:]PORT",
    callback=_published,
    help="Where the server is reached on its machine. Default: the recipe's port of loopback.",
)


def only_job(recipe: Recipe, cells: Sequence[Cell]) -> Job:
    """Return the only cell that can be built.

    Raises:
        RecipeError: none can.
        UsageError: there are several.
    """
    possible = possible_cells(recipe, cells)
    if len(possible) > 1:
        raise UsageError(
            f"one image runs, and {len(possible)} cells are selected",
            where=recipe.name,
            hint=f"name one with --cell; `jbuild pick {recipe.name}` says which this machine can run",
        )
    return job_of(recipe, possible[0])


def possible_cells(recipe: Recipe, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that can be built.

    Raises:
        RecipeError: none can.
    """
    possible = [cell for cell in cells if not cell.impossible]
    if not possible:
        hint = f"`jbuild matrix {recipe.name}` shows every cell, and why it cannot be built"
        raise RecipeError("none of the selected cells can be built", where=str(recipe.path), hint=hint)
    return possible

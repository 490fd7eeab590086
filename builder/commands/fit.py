"""`jbuild fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder import records
from builder.commands import complete
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.errors import ModelError, RecipeError
from builder.fit.cells import fit_cell
from builder.report.fit import text
from builder.resolve.jobs import job_of
from builder.resolve.models import locked_models

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.fit.model import CellFit
    from builder.recipe.model import Cell, Recipe
    from builder.session import Session


@click.command("fit")
@recipe_argument
@cell_option
@click.option(
    "--board",
    "boards",
    shell_complete=complete.boards,
    multiple=True,
    metavar="NAME",
    help="This board; may be repeated.",
)
@as_json
def command(recipe: str, selectors: tuple[str, ...], boards: tuple[str, ...], as_json: bool) -> int:
    """Estimate the memory that RECIPE's model needs, against what its boards have.

    Prints the sum line by line, and the largest max-model-len that fits. Boards are those of --board, else the recipe's
    `boards`, else all that the platform is for. Ends with 9 when the model of a cell fits none of them.
    """
    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    possible = [cell for cell in cells if not cell.impossible]
    if not possible:
        hint = f"`jbuild matrix {found.name}` shows every cell, and why it cannot be built"
        raise RecipeError("none of the selected cells can be built", where=str(found.path), hint=hint)
    fits = [_fit(found, cell, boards, session) for cell in possible]
    described = [{**records.plain(each), "fits_somewhere": each.fits_somewhere} for each in fits]
    session.console.result({"recipe": found.name, "cells": described}, text(fits, session.console.table))
    return 0 if all(each.fits_somewhere for each in fits) else ModelError.exit_code


def _fit(recipe: Recipe, cell: Cell, boards: Sequence[str], session: Session) -> CellFit:
    job = job_of(recipe, cell)
    models = locked_models(job, session)
    return fit_cell(recipe, cell.id, job.spec, job.platform, models, boards, session.config, session.workspace.models)

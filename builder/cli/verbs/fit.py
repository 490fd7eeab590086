"""`jbuild fit`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from builder.cli import completers
from builder.cli.options import cell_option, json_option, recipe_argument
from builder.cli.results import show
from builder.cli.selection import open_recipe, open_session, possible_jobs
from builder.cli.views.fit_view import CellEstimate, FitResult, text
from builder.errors import ModelError
from builder.fit.cells import fit_cell
from builder.fit.model import CellFit
from builder.resolve.model import Job
from builder.resolve.models import locked_models
from builder.session import Session


@click.command("fit")
@recipe_argument
@cell_option
@click.option(
    "--board",
    "boards",
    shell_complete=completers.boards,
    multiple=True,
    metavar="NAME",
    help="Estimate for this board. Can be repeated.",
)
@json_option
def command(recipe: str, selectors: tuple[str, ...], boards: tuple[str, ...], as_json: bool) -> int:
    """Estimate the memory that RECIPE's model needs, and compare it with the memory of boards.

    Prints the sum line by line, and the largest max-model-len that fits. Without --board, the boards are those of the
    recipe, or all boards of its platform. Ends with exit code 9 if the model of a cell fits no board.
    """
    session = open_session(as_json=as_json)
    loaded, cells = open_recipe(recipe, selectors, session.workspace)
    fits = [_fit(job, boards, session) for job in possible_jobs(loaded, cells)]
    estimates = tuple(CellEstimate(fit=fit, fits_somewhere=fit.fits_somewhere) for fit in fits)
    show(FitResult(recipe=loaded.name, cells=estimates), text(fits, session.console.table), session.console)
    return 0 if all(fit.fits_somewhere for fit in fits) else ModelError.exit_code


def _fit(job: Job, boards: Sequence[str], session: Session) -> CellFit:
    models = locked_models(job, session)
    return fit_cell(
        job.recipe, job.cell.id, job.spec, job.platform, models, boards, session.config, session.workspace.models
    )

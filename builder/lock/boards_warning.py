"""Says at lock time that a model is too large for boards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.models.fit.cell_fit import fit_cell, warning

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Job, Lock


def warn_of_boards(job: Job, lock: Lock, session: Session) -> None:
    """Warn of boards that a locked model does not fit; an estimate never stands in the way of a lock."""
    recipe, workspace = job.recipe, session.workspace
    try:
        found = fit_cell(recipe, job.cell.id, job.spec, job.platform, lock.models, (), session.config, workspace.models)
    except ModelError as error:
        session.console.say(f"{job.cell.id}: memory cannot be estimated: {error.message}")
        return
    said = warning(found, named=bool(recipe.boards))
    if said:
        # Of all boards of a platform, small ones are seldom meant.
        is_meant = recipe.boards or not found.fits_somewhere
        (session.console.warn if is_meant else session.console.say)(said)

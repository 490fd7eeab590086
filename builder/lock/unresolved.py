"""Remembers for which cells no wheels were found, so that lists can say so without asking again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from builder.errors import RecipeError
from builder.host import records
from builder.recipe.matrix import job_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from builder.errors import NoWheelsError
    from builder.host.config import Config
    from builder.host.paths import Workspace
    from builder.model.locks import Job
    from builder.model.recipes import Cell, Recipe

_RECORD = "unresolved"


def note(job: Job, inputs: str, error: NoWheelsError, workspace: Workspace) -> None:
    """Remember why a cell could not be locked, for as long as its inputs are these.

    Raises:
        DiskError: it cannot be written.
    """
    records.write(_record(job, workspace), inputs, error.message)


def forget(job: Job, workspace: Workspace) -> None:
    """Forget it: the cell is locked."""
    _record(job, workspace).unlink(missing_ok=True)


def cells(recipe: str, workspace: Workspace) -> set[str]:
    """Return the ids of the cells of a recipe that something is remembered for."""
    return {path.parent.name for path in workspace.cell(recipe, "any").path.parent.glob(f"*/{_RECORD}.json")}


def reasons(
    recipe: Recipe, selected: Iterable[Cell], workspace: Workspace, settings: Callable[[], Config]
) -> dict[str, str]:
    """Return why cells of a recipe had no wheels when they were last tried, by their ids.

    Cells that were not tried, or whose inputs have changed since, are not there. `settings` are read if there are any.
    """
    tried = cells(recipe.name, workspace)
    if not tried:
        return {}
    from builder.lock.index_sources import lock_inputs  # noqa: PLC0415  # slow to import, and seldom needed

    config, messages = settings(), {}
    for cell in selected:
        if cell.id in tried and not cell.impossible:
            job = job_of(recipe, cell)
            # A recipe that names an index that is gone has other inputs than when it was tried.
            with suppress(RecipeError):
                messages[cell.id] = records.read(_record(job, workspace), lock_inputs(job, config), str)
    return {cell: why for cell, why in messages.items() if why}


def _record(job: Job, workspace: Workspace) -> Path:
    return workspace.cell(job.recipe.name, job.cell.id).record(_RECORD)

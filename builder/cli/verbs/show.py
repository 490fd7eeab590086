"""`jbuild show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder.cli import results
from builder.cli.failures import failure_of
from builder.cli.options import cell_option, json_option, recipe_argument
from builder.cli.selection import open_recipe, open_session
from builder.cli.views.show_view import (
    AnyCell,
    ImpossibleCell,
    ShownCell,
    ShownLock,
    ShownModel,
    ShowResult,
    UnreadCell,
    text,
)
from builder.errors import JbuildError
from builder.pipeline.order import STAGES, RunOptions
from builder.pipeline.runner import preview
from builder.resolve import lockfile
from builder.resolve.jobs import job_of
from builder.resolve.unresolved import reasons

if TYPE_CHECKING:
    from pathlib import Path

    from builder.recipe.model import Cell, Recipe
    from builder.resolve.model import Lock
    from builder.session import Session


@click.command("show")
@recipe_argument
@cell_option
@json_option
def command(recipe: str, selectors: tuple[str, ...], as_json: bool) -> None:
    """Show the cells of RECIPE: their settings, locked versions and stages."""
    session = open_session(as_json=as_json)
    loaded, cells = open_recipe(recipe, selectors, session.workspace)
    result = ShowResult(
        recipe=loaded.name,
        path=str(loaded.path),
        description=loaded.description,
        architecture=loaded.architecture,
        cells=tuple(_cell(loaded, cell, session) for cell in cells),
    )
    results.show(result, text(result), session.console)


def _cell(recipe: Recipe, cell: Cell, session: Session) -> AnyCell:
    unresolved = reasons(recipe, (cell,), session.workspace, lambda: session.config).get(cell.id)
    head: dict[str, Any] = {"cell": cell.id, "values": dict(cell.values), "impossible": cell.impossible}
    head |= {"note": cell.note, "unresolved": unresolved}
    if cell.impossible:
        return ImpossibleCell(**head)
    job = job_of(recipe, cell)
    head |= {"platform": job.platform, "spec": job.spec}
    path = session.workspace.lock(recipe.name, cell.id)
    try:
        lock = lockfile.read(path, recipe=recipe.name, cell=cell.id)
        states = preview(job, session, RunOptions(until=STAGES[-1]))
    except JbuildError as error:
        return UnreadCell(**head, error=failure_of(error))
    return ShownCell(
        **head,
        lock=_lock(lock, path) if lock else None,
        stages={state.stage: state.state for state in states},
        failed=next((f"{state.stage}: {state.why}" for state in states if state.why), None),
    )


def _lock(lock: Lock, path: Path) -> ShownLock:
    return ShownLock(
        path=str(path),
        base=lock.base,
        advisories=lock.advisories,
        indexes=lock.indexes,
        rules=lock.rules,
        warnings=lock.warnings,
        torch_cuda=lock.torch_cuda,
        packages={wheel.name: wheel.version for wheel in lock.wheels},
        models=tuple(
            ShownModel(name=model.name, revision=model.revision, size=model.size, stand_in=model.stand_in)
            for model in lock.models
        ),
    )

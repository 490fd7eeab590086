"""The stages' inputs as fingerprints, and their comparison with earlier ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host import records
from builder.lock import lockfile
from builder.model.locks import Locked
from builder.pipeline.cell import start
from builder.pipeline.order import stages_of
from builder.pipeline.stage import stage_of
from builder.recipe.matrix import job_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.recipes import Cell, Recipe

    # Fingerprints by the name of an input.
    CellInputs = Mapping[str, str]

NEW = ("new",)


def inputs_of(recipe: Recipe, cells: Iterable[Cell], session: Session) -> dict[str, CellInputs]:
    """Return the fingerprints of a recipe's possible cells by id and by input.

    Raises:
        JbuildError: a lock is damaged, or a cell names an unknown index.
    """
    return {cell.id: _inputs(job_of(recipe, cell), session) for cell in cells if not cell.impossible}


def _inputs(job: Job, session: Session) -> CellInputs:
    run = start(job, session)
    path = session.workspace.lock(job.recipe.name, job.cell.id)
    if lock := lockfile.read(path, recipe=job.recipe.name, cell=job.cell.id):
        run = run.with_records(Locked(lock=lock))
    values: dict[str, dict[str, object]] = {}
    for stage in stages_of(job.spec):
        for name, value in stage_of(stage).project_inputs(run).items():
            values.setdefault(name, {})[stage] = value
    return {name: records.fingerprint(by_stage) for name, by_stage in values.items()}


def read(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return the fingerprints in a file by recipe, cell and input.

    Raises:
        UsageError: the file cannot be read, or is not the output of `jbuild matrix --format inputs`.
    """
    hint = "write one with `jbuild matrix RECIPE --format inputs > FILE`, and compare with it later"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        recipes: dict[str, dict[str, dict[str, str]]] = records.from_json(
            document["recipes"], dict[str, dict[str, dict[str, str]]]
        )
    except OSError as error:
        raise UsageError(f"cannot read the inputs file: {error.strerror}", where=str(path), hint=hint) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError("not an inputs file of jbuild", where=str(path), hint=hint) from error
    return recipes


def changes(
    selected: Sequence[tuple[Recipe, Sequence[Cell]]], session: Session, before: Path
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the inputs of every cell, by recipe and id, that differ from those in a file; `NEW` for a new cell.

    Raises:
        UsageError: the file is not an inputs file.
        JbuildError: a lock is damaged, or a cell names an unknown index.
    """
    earlier = read(before)
    return {
        (recipe.name, cell): _different(earlier.get(recipe.name, {}).get(cell), now)
        for recipe, cells in selected
        for cell, now in inputs_of(recipe, cells, session).items()
    }


def _different(before: CellInputs | None, now: CellInputs) -> tuple[str, ...]:
    return NEW if before is None else tuple(name for name, value in now.items() if before.get(name) != value)

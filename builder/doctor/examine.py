"""Looks at everything, those things first that others depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.doctor import disk, emulation, engine, jetson, network, project, registry, surroundings, tools
from builder.doctor.model import Case, Check
from builder.doctor.subjects import subjects
from builder.engine import find_engine
from builder.errors import EngineError
from builder.host.concurrency import TaskGroup
from builder.recipe.matrix import expand
from builder.resolve.jobs import job_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.recipe.model import Recipe
    from builder.session import Session

_ROOMS = (tools, engine, emulation, surroundings, network, registry, project, disk, jetson)


def case_of(session: Session, recipe: Recipe | None = None) -> Case:
    """Return what is to be examined, with the engine if one answers."""
    cells = expand(recipe) if recipe else ()
    jobs = tuple(job_of(recipe, cell) for cell in cells if not cell.impossible) if recipe else ()
    try:
        found = find_engine(session.workspace)
    except EngineError as error:
        where = f" ({error.where})" if error.where else ""
        return Case(
            session=session,
            engine=None,
            refusal=f"{error.message}{where}",
            mend=error.hint or "",
            recipe=recipe,
            jobs=jobs,
        )
    return Case(session=session, engine=found, recipe=recipe, jobs=jobs)


def examine(case: Case) -> Iterator[Check]:
    """Yield every check in the order of the table. All are made at once, for most wait for somebody else."""
    order, found = list(subjects()), list[Check]()
    console = case.session.console
    with console.task("looking around", len(_ROOMS), unit="subjects") as task, TaskGroup(len(_ROOMS)) as group:
        for future in [group.submit(_all, case, room) for room in _ROOMS]:
            found += future.result()
            task.advance(1)
    yield from sorted(found, key=lambda check: order.index(check.name))


def _all(case: Case, room: object) -> list[Check]:
    return list(room.check(case))  # type: ignore[attr-defined]

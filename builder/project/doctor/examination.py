"""Looks at everything, those things first that others depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import EngineError
from builder.host.concurrency import TaskGroup
from builder.host.engine.docker import find_engine
from builder.project.doctor import (
    disk_check,
    emulation_check,
    engine_check,
    jetson_check,
    network_check,
    proxy_check,
    registry_check,
    stand_ins_check,
    tools_check,
)
from builder.project.doctor.check_records import Check, DoctorContext
from builder.project.doctor.check_table import subjects
from builder.recipe.job import job_of
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.model.recipes import Recipe

_ROOMS = (
    tools_check,
    engine_check,
    emulation_check,
    proxy_check,
    network_check,
    registry_check,
    stand_ins_check,
    disk_check,
    jetson_check,
)


def case_of(session: Session, recipe: Recipe | None = None) -> DoctorContext:
    """Return what is to be examined, with the engine if one answers."""
    cells = expand(recipe) if recipe else ()
    jobs = tuple(job_of(recipe, cell) for cell in cells if not cell.impossible) if recipe else ()
    try:
        found = find_engine(session.workspace)
    except EngineError as error:
        where = f" ({error.where})" if error.where else ""
        return DoctorContext(
            session=session,
            engine=None,
            refusal=f"{error.message}{where}",
            mend=error.hint or "",
            recipe=recipe,
            jobs=jobs,
        )
    return DoctorContext(session=session, engine=found, recipe=recipe, jobs=jobs)


def examine(case: DoctorContext) -> Iterator[Check]:
    """Yield every check in the order of the table. All are made at once, for most wait for somebody else."""
    order, found = list(subjects()), list[Check]()
    console = case.session.console
    with console.task("looking around", len(_ROOMS), unit="subjects") as task, TaskGroup(len(_ROOMS)) as group:
        for future in [group.submit(_all, case, room) for room in _ROOMS]:
            found += future.result()
            task.advance(1)
    yield from sorted(found, key=lambda check: order.index(check.name))


def _all(case: DoctorContext, room: object) -> list[Check]:
    return list(room.check(case))  # type: ignore[attr-defined]

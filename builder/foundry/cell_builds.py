"""The builds of a cell: from its lock to requests, and the lock with the built wheels for verbs without a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.foundry.obtain_wheel import WheelRequest
from builder.host.config import with_options
from builder.lock.stage import lock_with_history
from builder.model.builds import BuildOptions
from builder.model.locks import Locked
from builder.pipeline import history
from builder.pipeline.cell import start
from builder.pipeline.history import StageResult
from builder.pipeline.order import RunOptions
from builder.pipeline.runner import alone, bring_up_to_date
from builder.pipeline.stage import stage_of
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.model.locks import Job, Lock
    from builder.pipeline.cell import CellRun

_STAGE = "wheel"


def requests_of(run: CellRun) -> Iterator[WheelRequest]:
    """Yield a request for each build of a cell."""
    lock, options = run.get(Locked).lock, BuildOptions(fresh=run.options.again == _STAGE)
    for build in lock.builds or ():
        yield request_of(build, run.job, lock, options, run.session)


def request_of(build: LockedBuild, job: Job, lock: Lock, options: BuildOptions, session: Session) -> WheelRequest:
    """Return the request for a build, with the registries of its cell."""
    spec = job.spec.publish
    registries = with_options(session.config, registries=spec.registries).registries
    names = tuple(Reference.parse(f"{registry}/{spec.repository}-wheels") for registry in registries)
    return WheelRequest(build=build, lock=lock, apt=job.spec.apt, options=options, registries=names)


def lock_with_wheels(job: Job, session: Session) -> Lock:
    """Return the lock of a cell with the wheels that it builds, for a verb without a run; the history gets failures.

    Raises:
        JbuildError: the cell cannot be locked, or a wheel cannot be built.
    """
    lock = lock_with_history(job, session)
    if not lock.builds:
        return lock
    run = start(job, session, RunOptions(until=_STAGE)).with_records(Locked(lock=lock))
    began = time.monotonic()
    try:
        with alone(run), session.console.working_on(job.cell.id):
            run, ran = bring_up_to_date(stage_of(_STAGE), run)
    except JbuildError as error:
        history.note(run, (), error, _STAGE)
        raise
    result = StageResult(stage=_STAGE, ran=ran, seconds=round(time.monotonic() - began, 2))
    history.note(run, (result,), None, _STAGE)
    return run.lock

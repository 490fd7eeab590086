"""Strings the stages of a cell together and schedules cells: the only place that knows the order."""

from __future__ import annotations

import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from filelock import Timeout

from builder import history, process, stages
from builder.cache.use import in_use
from builder.errors import EngineError, JbuildError
from builder.records import fingerprint
from builder.stages import Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.image.builders import Builders
    from builder.resolve.model import Job
    from builder.session import Session
    from builder.stages import Options


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """One stage of one cell: whether it ran, and for how long (seconds)."""

    stage: str
    ran: bool
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a run would do with a stage: `unchanged` is taken as it is, `run` is run.

    `failed` is run again although it failed with the same inputs the last time; `why` says how.
    """

    stage: str
    state: Literal["unchanged", "run", "failed"]
    why: str | None = None


@dataclass(slots=True)
class CellResult:
    """What became of a cell."""

    work: Work
    stages: list[StageResult] = field(default_factory=list)
    error: JbuildError | None = None

    @property
    def status(self) -> str:
        """`failed`, `unchanged` when nothing had to run, else `done`."""
        if self.error:
            return "failed"
        return "done" if any(stage.ran for stage in self.stages) else "unchanged"


def run_cells(jobs: Sequence[Job], session: Session, options: Options, *, at_once: int = 1) -> list[CellResult]:
    """Bring every cell up to the last stage asked for; a cell that fails does not stop the others.

    At least as many are worked on at once as there are builders to deal them out to.
    """
    with in_use(session.workspace):
        return _run_cells(jobs, session, options, at_once)


def _run_cells(jobs: Sequence[Job], session: Session, options: Options, at_once: int) -> list[CellResult]:
    builders = stages.builders_of(options, session)
    at_once = max(at_once, len(builders.names))
    if at_once <= 1 or len(jobs) <= 1:
        return [_run_in_group(job, session, options, builders) for job in jobs]
    # Filled at first use, and half empty to other threads meanwhile (finding uv's program needs it).
    sysconfig.get_config_vars()
    pool = ThreadPoolExecutor(at_once)
    running = [pool.submit(run_cell, job, session, options, builders) for job in jobs]
    try:
        return [future.result() for future in running]
    except BaseException:
        # Threads do not see Ctrl-C: end their programs, and let their next step of progress stop them.
        session.console.cancel()
        process.end_all()
        _abandon(session)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _abandon(session: Session) -> None:
    """Remove this process's containers, so that threads that talk to them end at once."""
    from builder.engine import find_engine  # noqa: PLC0415
    from builder.host.engine.container import remove_own  # noqa: PLC0415

    try:
        client = find_engine(session.workspace).client()
    except EngineError:
        # Without an engine there are no containers.
        return
    remove_own(client)
    client.close()


def _run_in_group(job: Job, session: Session, options: Options, builders: Builders) -> CellResult:
    with session.console.group(job.name):
        return run_cell(job, session, options, builders)


def run_cell(job: Job, session: Session, options: Options, builders: Builders) -> CellResult:
    """Run the stages of a cell that are missing or out of date, in order."""
    result = CellResult(Work(job=job, session=session, options=options, builders=builders))
    reached = options.stages[0]
    try:
        with _alone(job, session), session.console.working_on(job.cell.id):
            for stage in options.stages:
                begun, reached = time.monotonic(), stage
                ran = stages.run(stage, result.work)
                result.stages.append(StageResult(stage=stage, ran=ran, seconds=time.monotonic() - begun))
                said = f"{result.stages[-1].seconds:.1f} s" if ran else "unchanged"
                session.console.say(f"{job.cell.id}: {stage}: {said}")
            if options.verify:
                reached = "verify"
                _verify(result.work)
                session.console.say(f"{job.cell.id}: verify: a second build without any cache gave the same digest")
    except JbuildError as error:
        result.error = error
    history.note(result.work, result.stages, result.error, reached)
    return result


def _verify(work: Work) -> None:
    """Build a cell a second time without any cache, and note that the images are the same.

    Raises:
        NotReproducibleError: they are not.
    """
    from builder.engine import find_engine  # noqa: PLC0415
    from builder.image.verify import Built, verify  # noqa: PLC0415

    engine, session = find_engine(work.session.workspace), work.session
    builders = work.builders or stages.builders_of(work.options, session)
    built = Built(lock=work.lock, image=work.image, run=lambda make: builders.build(work.job.cell.id, engine, make))
    work.made.verified = verify(work.job, built, engine, session)


def preview(job: Job, session: Session, options: Options) -> list[Preview]:
    """Return what a run would do with each stage; after the first that runs all do."""
    work = Work(job=job, session=session, options=options)
    outcome: list[Preview] = []
    for stage in options.stages:
        # What a later stage would be made from is not known before this one has run.
        if outcome and outcome[-1].state != "unchanged":
            outcome.append(Preview(stage=stage, state="run"))
        elif stages.is_done(stage, work):
            outcome.append(Preview(stage=stage, state="unchanged"))
        else:
            why = stages.last_failure(stage, work)
            outcome.append(Preview(stage=stage, state="failed" if why else "run", why=why))
    return outcome


@contextmanager
def _alone(job: Job, session: Session) -> Iterator[None]:
    """Keep two jbuild processes off one cell's folder."""
    name = fingerprint(str(session.workspace.project), job.recipe.name, job.cell.id)[:16]
    lock = session.workspace.file_lock(f"cell-{name}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        session.console.say(f"{job.cell.id}: another jbuild works on this cell; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

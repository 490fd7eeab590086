"""Runs cells through the stages, several cells at once."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from filelock import Timeout

from builder.errors import EngineError, JbuildError
from builder.host import process
from builder.host.concurrency import TaskGroup
from builder.host.engine.docker import find_engine
from builder.host.file_locks import in_use
from builder.host.records import fingerprint
from builder.pipeline import history
from builder.pipeline.cell import builders_of, start
from builder.pipeline.history import StageResult
from builder.pipeline.stage import stage_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.host.console import Console
    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.pipeline.builders import Builders
    from builder.pipeline.cell import CellRun
    from builder.pipeline.history import Attempt
    from builder.pipeline.order import RunOptions
    from builder.pipeline.stage import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a run would do with a stage: reuse its record (`unchanged`) or `run` it.

    `failed` means that it runs again after a failure with the same inputs; `why` is that failure.
    """

    stage: str
    state: Literal["unchanged", "run", "failed"]
    why: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """The outcome of a cell: the run with its records, its stages so far, and the error that ended it.

    `failed_at` is the stage of the error, `ended` the end of the run (UTC, ISO 8601). `verified` is the digest of
    two equal builds, None without a second build.
    """

    run: CellRun
    stages: tuple[StageResult, ...] = ()
    error: JbuildError | None = None
    failed_at: str | None = None
    verified: str | None = None
    ended: str = field(default_factory=history.now)

    @property
    def status(self) -> Literal["done", "unchanged", "failed"]:
        """`failed`, `unchanged` when nothing had to run, else `done`."""
        if self.error:
            return "failed"
        return "done" if any(stage.ran for stage in self.stages) else "unchanged"


def check(job: Job, session: Session, options: RunOptions) -> None:
    """Refuse a run that would fail only after hours.

    Raises:
        UsageError: a stage lacks an option or a setting, such as a registry to push to.
    """
    run = start(job, session, options)
    for name in run.stages:
        stage_of(name).check(run)


def check_servers(jobs: Sequence[Job], session: Session, options: RunOptions) -> None:
    """Refuse runs that would fail only after hours because a server is down.

    Raises:
        JbuildError: a server does not answer, or refuses this machine.
    """
    runs = [start(job, session, options) for job in jobs]
    for name in options.stages:
        if concerned := [run for run in runs if name in run.stages]:
            stage_of(name).check_servers(concerned)


def run_cells(jobs: Sequence[Job], session: Session, options: RunOptions, *, at_once: int = 1) -> list[CellResult]:
    """Run every cell up to the last stage; a cell that fails does not stop the others.

    At least as many cells run at once as there are builders.
    """
    with in_use(session.workspace):
        results = _run_all(jobs, session, options, at_once)
    # After a failure, the next run of that cell may need files that the other cells no longer need.
    if not any(result.error for result in results):
        for name in options.stages:
            if reached := [result.run for result in results if name in result.run.stages]:
                stage_of(name).clean_up(reached)
    return results


def _run_all(jobs: Sequence[Job], session: Session, options: RunOptions, at_once: int) -> list[CellResult]:
    builders = builders_of(options, session)
    at_once = max(at_once, len(builders.names))
    if at_once > 1 and len(jobs) > 1:
        return _run_at_once(jobs, session, options, builders, at_once)
    results = []
    for job in jobs:
        with session.console.group(job.name):
            results.append(run_cell(job, session, options, builders))
    return results


def _run_at_once(
    jobs: Sequence[Job], session: Session, options: RunOptions, builders: Builders, at_once: int
) -> list[CellResult]:
    def stop() -> None:
        # Threads do not see Ctrl-C: end their programs, and stop them at their next step of progress.
        session.console.note("stopping all cells and removing their containers")
        session.console.cancel()
        process.end_all()
        _remove_containers(session)

    with TaskGroup(at_once, on_cancel=stop, grace_s=None) as group:
        return group.map(lambda job: run_cell(job, session, options, builders), jobs)


def _remove_containers(session: Session) -> None:
    """Remove this process's containers, so that their threads end at once."""
    from builder.host.engine.container import remove_own  # noqa: PLC0415  # slow to import, and only after Ctrl-C

    try:
        client = find_engine(session.workspace).client()
    except EngineError:
        # Without an engine there are no containers.
        return
    remove_own(client)
    client.close()


def run_cell(job: Job, session: Session, options: RunOptions, builders: Builders) -> CellResult:
    """Run the stages of a cell that are missing or out of date, in order."""
    run, first = start(job, session, options, builders), options.stages[0]
    try:
        with alone(run), session.console.working_on(job.cell.id), history.attempt(run) as attempt:
            return _run_stages(replace(run, on_step=attempt.reaches), attempt)
    except JbuildError as error:
        # The stages' own errors are results: this one came before them.
        history.note(run, (), error, first)
        return CellResult(run=run, error=error, failed_at=first)


def _run_stages(run: CellRun, attempt: Attempt) -> CellResult:
    results, console, cell = list[StageResult](), run.session.console, run.job.cell.id
    current, verified = run.options.stages[0], None

    def finish(began: float, *, ran: bool = True) -> None:
        results.append(StageResult(stage=current, ran=ran, seconds=round(time.monotonic() - began, 2)))

    try:
        for current in run.stages:
            stage_of(current).check_machine(run)
        for current in run.stages:
            attempt.begins(results, current)
            began = time.monotonic()
            run, ran = bring_up_to_date(stage_of(current), run)
            finish(began, ran=ran)
            console.say(f"{cell}: {current}: {f'{results[-1].seconds:.1f} s' if ran else 'unchanged'}")
        shown = tuple(results)
        if run.options.verify:
            current = history.VERIFY
            attempt.begins(results, current)
            began = time.monotonic()
            verified = _verify(run)
            finish(began)
    except JbuildError as error:
        history.note(run, results, _interrupt_of(console) or error, current, step=attempt.step)
        return CellResult(run=run, stages=tuple(results), error=error, failed_at=current)
    except BaseException as error:
        history.note(run, results, error, current, step=attempt.step)
        raise
    history.note(run, results, None, current)
    return CellResult(run=run, stages=shown, verified=verified)


def _interrupt_of(console: Console) -> KeyboardInterrupt | None:
    """Return the interrupt that ended the programs of all cells, if there was one."""
    try:
        console.check()
    except KeyboardInterrupt as interrupt:
        return interrupt
    return None


def bring_up_to_date(stage: Stage[object], run: CellRun) -> tuple[CellRun, bool]:
    """Return the run with the record of a stage, and whether the stage had to run.

    Raises:
        JbuildError: the stage failed; the records of earlier stages stay.
    """
    record = _current_record(stage, run)
    if record is not None:
        return run.with_records(record), False
    try:
        record = stage.make(run)
    except JbuildError as error:
        if error.record is not None:
            stage.save(run, error.record)
        raise
    stage.save(run, record)
    return run.with_records(record), True


def _current_record(stage: Stage[object], run: CellRun) -> object | None:
    if run.options.forces(stage.name):
        return None
    record = stage.load(run)
    return record if record is not None and stage.holds(run, record) else None


def _verify(run: CellRun) -> str | None:
    """Repeat the stages that can be verified, without any cache; return the digest of both runs.

    Raises:
        JbuildError: the second run failed, or its result differs.
    """
    digests = [digest for name in run.stages if (digest := stage_of(name).verify(run))]
    run.session.console.say(f"{run.job.cell.id}: verify: a second build without any cache gave the same digest")
    return digests[-1] if digests else None


def preview(job: Job, session: Session, options: RunOptions) -> list[Preview]:
    """Return what a run would do with each stage; all stages after the first one that runs do so too."""
    # With `locked_only`, no model file is downloaded either.
    run = start(job, session, replace(options, locked_only=True))
    outcome: list[Preview] = []
    for name in run.stages:
        # The inputs of a later stage are unknown before this one has run.
        if outcome and outcome[-1].state != "unchanged":
            outcome.append(Preview(stage=name, state="run"))
            continue
        stage = stage_of(name)
        record = _current_record(stage, run)
        if record is not None:
            run = run.with_records(record)
            outcome.append(Preview(stage=name, state="unchanged"))
        else:
            why = stage.last_failure(run)
            outcome.append(Preview(stage=name, state="failed" if why else "run", why=why))
    return outcome


@contextmanager
def alone(run: CellRun) -> Iterator[None]:
    """Reserve a cell's folder for this process."""
    lock = run.session.workspace.file_lock(f"cell-{fingerprint(str(run.folder.path))[:16]}")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        run.session.console.say(f"{run.job.cell.id}: another jbuild works on this cell; waiting for it")
        held = lock.acquire()
    with held:
        yield

"""The history of a cell: one line a run, appended and never changed. Records keep only the last run.

While a run lasts, a second file holds the line that the history gets if the run is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host import records
from builder.host.files import disk_errors
from builder.model.audits import Audit
from builder.model.images import Image
from builder.model.locks import Lock, Locked
from builder.model.publications import Publication
from builder.model.verdicts import SmokeFailedError, Verdict
from builder.pipeline.failure import Failure, RunningStage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from builder.host.paths import CellFolder
    from builder.pipeline.cell import CellRun

_LOG_LINES = 40
_LOG_LENGTH = 6000
# Only the end of a history is read (bytes). A run takes one to ten thousand.
_RECENT = 1 << 19
_MOST = 50
_PUBLISHED = "published"
# The stages besides those of the order: a second build, whose failure is about the image of the first one.
VERIFY = "verify"
_KILLED = "the run ended before this stage did: jbuild was killed, or the machine stopped"
_INTERRUPTED = "the run was interrupted before this stage ended (Ctrl-C, or a cancelled job)"
_RESUME = "run the same command again: finished stages stay"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """One stage of one cell: whether it ran, and for how long (seconds)."""

    stage: str
    ran: bool
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRun:
    """One run of a cell in which a stage ran: its end (UTC, ISO 8601), its stages and their results.

    `digest` and `size` (bytes, compressed) are the image's, `verdict` that of a smoke run, passed or not, `tags` those
    that were pushed. `lock` identifies the lock, None if the run did not come that far.
    """

    when: str
    stages: tuple[StageResult, ...]
    failure: Failure | None = None
    digest: str | None = None
    size: int | None = None
    audit: dict[str, int] = field(default_factory=dict)
    verdict: Verdict | None = None
    tags: tuple[str, ...] = ()
    lock: str | None = field(default=None, metadata=records.OPTIONAL)

    @property
    def seconds(self) -> float:
        """The seconds of all stages."""
        return sum(result.seconds for result in self.stages)

    def ran(self, stage: str) -> bool:
        """Return whether a stage ran to its end, and was not up to date."""
        return any(result.ran for result in self.stages if result.stage == stage)


@dataclass(frozen=True, kw_only=True, slots=True)
class LastPublication:
    """A cell's last published image, and its lock."""

    lock: Lock
    image: Image


@dataclass(slots=True)
class Attempt:
    """A run that has not ended; `file` is None where the cell's folder cannot be written.

    `stage` is the stage that began last, after those with `results`, and `step` the last step that it named.
    """

    run: CellRun
    file: IO[bytes] | None
    results: tuple[StageResult, ...] = ()
    stage: str = ""
    step: str = ""

    def begins(self, results: Sequence[StageResult], stage: str) -> None:
        """Write down that a stage begins, after the stages with these results."""
        self.results, self.stage, self.step = tuple(results), stage, ""
        self._write()

    def reaches(self, step: str) -> None:
        """Write down that the stage begins a step."""
        self.step = step
        self._write()

    def _write(self) -> None:
        message = at_step(_KILLED, self.step)
        killed = HistoryRun(
            when=now(),
            stages=self.results,
            failure=Failure(stage=self.stage, message=message, where=self.run.job.name, hint=_RESUME),
        )
        if self.file:
            with suppress(OSError):
                self.file.write(f"{_line(killed)}\n".encode())


@contextmanager
def attempt(run: CellRun) -> Iterator[Attempt]:
    """Yield the record of a run that begins; only a killed process leaves its file behind.

    The history gets the line of an earlier run that was killed. If nothing can be written, the end of the run warns.
    """
    path = run.folder.running
    with suppress(JbuildError, OSError):
        if killed := _killed(path):
            _append(run.folder.history, _line(killed))
            path.unlink(missing_ok=True)
    file = _locked(path)
    try:
        yield Attempt(run, file)
    finally:
        if file:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            file.close()


def _locked(path: Path) -> IO[bytes] | None:
    """Return a file that this process has locked, or None where that is not possible."""
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if file:
            file.close()
        return None
    return file


def note(
    run: CellRun, results: Sequence[StageResult], error: BaseException | None, stage: str, *, step: str = ""
) -> None:
    """Append a run to its cell's history, and store its publication for later comparisons.

    A run without work leaves no line, unless it shows that an earlier failure is over. `stage` is the last one that
    started, `step` its last step. If the history cannot be written, the run only warns.
    """
    entry = _entry(run, results, error, stage, step)
    if error is None and not any(result.ran for result in results) and not _is_recovery(entry, run.folder):
        return
    try:
        _append(run.folder.history, _line(entry))
        if entry.ran("push"):
            published = LastPublication(lock=run.lock, image=run.image)
            records.write(run.folder.record(_PUBLISHED), run.image.digest, published)
    except (JbuildError, OSError) as failed:
        run.session.console.warn(f"{run.job.name}: cannot write its history: {failed}")


def runs(folder: CellFolder) -> tuple[HistoryRun, ...]:
    """Return the recent runs of a cell, oldest first, without damaged lines; a killed run is among them."""
    killed = _killed(folder.running)
    return (*_noted(folder), killed) if killed else _noted(folder)


def running(folder: CellFolder) -> RunningStage | None:
    """Return the stage of a cell that a process works on now, or None."""
    lines = _begun(folder.running, alive=True)
    stages = [line.failure.stage for line in lines if line.failure]
    if not stages:
        return None
    finished = tuple(result.stage for result in lines[-1].stages)
    return RunningStage(stage=stages[-1], since=lines[stages.index(stages[-1])].when, finished=finished)


def open_failures(
    recent: Sequence[HistoryRun], running_now: RunningStage | None = None, *, lock: Lock | None = None
) -> tuple[Failure, ...]:
    """Return the failures of stages that have not succeeded since, in the order in which they happened.

    A stage of `running_now` has not failed; `lock` is the cell's present one, if it has one.
    """
    failures: dict[str, Failure] = {}
    for run in recent:
        for result in run.stages:
            failures.pop(result.stage, None)
        if run.ran("build"):
            # It made another image than the one that differed.
            failures.pop(VERIFY, None)
        if run.failure:
            failures.pop(run.failure.stage, None)
            failures[run.failure.stage] = replace(run.failure, when=run.when, lock=run.lock)
    for stage in (*running_now.finished, running_now.stage) if running_now else ():
        failures.pop(stage, None)
    present = lock_identity(lock.as_written) if lock and failures else None
    return tuple(
        replace(failure, outdated=True) if present and failure.lock not in (None, present) else failure
        for failure in failures.values()
    )


def lock_identity(lock: Lock) -> str:
    """Return what identifies a lock in the history: its packages, base image and models."""
    return records.fingerprint(lock.wheels, lock.base, lock.platform, lock.models)


def cut_off(folder: CellFolder) -> Failure | None:
    """Return where the last run of a cell was interrupted or killed; None if it came to its end."""
    failure = recent[-1].failure if (recent := runs(folder)) else None
    return failure if failure and failure.hint == _RESUME else None


def _noted(folder: CellFolder) -> tuple[HistoryRun, ...]:
    try:
        with folder.history.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _RECENT))
            lines = file.read().splitlines()
    except OSError:
        return ()
    entries = (_read(line) for line in lines[-_MOST:])
    return tuple(run for run in entries if run)


def published(folder: CellFolder) -> LastPublication | None:
    """Return the last publication of a cell, or None."""
    return records.read(folder.record(_PUBLISHED), None, LastPublication)


def _killed(path: Path) -> HistoryRun | None:
    """Return the run that a killed process left behind, or None."""
    lines = _begun(path, alive=False)
    return lines[-1] if lines else None


def _begun(path: Path, *, alive: bool) -> list[HistoryRun]:
    """Return the lines of a run that has not ended: of one whose process is `alive`, or of one that was killed."""
    try:
        with path.open("rb") as file:
            # Without a link, the run has ended since the file was opened.
            if _is_locked(file) != alive or not os.fstat(file.fileno()).st_nlink:
                return []
            lines = file.read().splitlines()
    except OSError:
        return []
    return [run for line in lines if (run := _read(line))]


def _is_locked(file: IO[bytes]) -> bool:
    """Return whether a live process has locked a file: a lock ends with its process."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _is_recovery(run: HistoryRun, folder: CellFolder) -> bool:
    """Return whether a run passed a stage that failed before."""
    failed = {failure.stage for failure in open_failures(runs(folder))}
    return any(result.stage in failed for result in run.stages)


def _entry(
    run: CellRun, results: Sequence[StageResult], error: BaseException | None, stage: str, step: str
) -> HistoryRun:
    audit, image, publication, locked = run.find(Audit), run.find(Image), run.find(Publication), run.find(Locked)
    return HistoryRun(
        when=now(),
        stages=tuple(results),
        failure=_failure(error, stage, step) if error else None,
        digest=image.digest if image else None,
        size=image.size if image else None,
        audit={name: audit.counted(name) for name in ("error", "warning", "info")} if audit else {},
        verdict=error.verdict if isinstance(error, SmokeFailedError) else run.find(Verdict),
        tags=tuple(f"{put.repository}:{tag.name}" for put in publication.registries for tag in put.tags)
        if publication
        else (),
        lock=lock_identity(locked.lock) if locked else None,
    )


def now() -> str:
    """Return this moment in UTC (ISO 8601)."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _line(run: HistoryRun) -> str:
    return json.dumps(records.to_json(run), sort_keys=True, separators=(",", ":"))


def at_step(message: str, step: str) -> str:
    """Return a message about a run that was cut off, with its last step if that is known."""
    return f"{message}; its last step was: {step}" if step else message


def _failure(error: BaseException, stage: str, step: str) -> Failure:
    if not isinstance(error, JbuildError):
        is_interrupt = not isinstance(error, Exception)
        message = at_step(_INTERRUPTED, step) if is_interrupt else f"unexpected {type(error).__name__}: {error}"
        return Failure(stage=stage, message=message, hint=_RESUME if is_interrupt else None)
    log = "\n".join((error.log or "").splitlines()[-_LOG_LINES:])[-_LOG_LENGTH:]
    return Failure(stage=stage, message=error.message, where=error.where, hint=error.hint, log=log or None)


def _append(path: Path, line: str) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            is_torn = file.read(1) not in (b"", b"\n")
            # One write, so that the lines of two processes do not mix.
            file.write(("\n" * is_torn + f"{line}\n").encode())


def _read(line: bytes) -> HistoryRun | None:
    try:
        entry: HistoryRun = records.from_json(json.loads(line), HistoryRun)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry

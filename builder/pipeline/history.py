"""The history of a cell: one line a run, appended and never changed. Records keep only the last run."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host import records
from builder.host.files import disk_errors
from builder.model.audits import Audit
from builder.model.images import Image
from builder.model.locks import Lock  # noqa: TC001  # records are decoded by the types of their fields
from builder.model.publications import Publication
from builder.model.verdicts import SmokeFailedError, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.paths import CellFolder
    from builder.pipeline.cell import CellRun

_LOG_LINES = 40
_LOG_LENGTH = 6000
# Only the end of a history is read (bytes). A run takes one to ten thousand.
_RECENT = 1 << 19
_MOST = 50
_PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """One stage of one cell: whether it ran, and for how long (seconds)."""

    stage: str
    ran: bool
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The stage at which a run failed, and the error; `log` is the tail of a program's log."""

    stage: str
    message: str
    where: str | None = None
    hint: str | None = None
    log: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRun:
    """One run of a cell in which a stage ran: its end (UTC, ISO 8601), its stages and their results.

    `digest` and `size` (bytes, compressed) are the image's, `verdict` that of a smoke run, passed or not, `tags` those
    that were pushed.
    """

    when: str
    stages: tuple[StageResult, ...]
    failure: Failure | None = None
    digest: str | None = None
    size: int | None = None
    audit: dict[str, int] = field(default_factory=dict)
    verdict: Verdict | None = None
    tags: tuple[str, ...] = ()

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


def note(run: CellRun, results: Sequence[StageResult], error: JbuildError | None, stage: str) -> None:
    """Append a run to its cell's history, and store its publication for later comparisons.

    A run without work leaves no line, unless it shows that an earlier failure is over. `stage` is the last one that
    started. If the history cannot be written, the run only warns.
    """
    entry = _entry(run, results, error, stage)
    if error is None and not any(result.ran for result in results) and not _is_recovery(entry, run.folder):
        return
    if stage == "lock" and error and (run.options.locked_only or not run.folder.path.is_dir()):
        # Refused before any work on the cell: such a run leaves nothing behind.
        return
    try:
        _append(run.folder.history, json.dumps(records.to_json(entry), sort_keys=True, separators=(",", ":")))
        if entry.ran("push"):
            published = LastPublication(lock=run.lock, image=run.image)
            records.write(run.folder.record(_PUBLISHED), run.image.digest, published)
    except (JbuildError, OSError) as failed:
        run.session.console.warn(f"{run.job.name}: cannot write its history: {failed}")


def runs(folder: CellFolder) -> tuple[HistoryRun, ...]:
    """Return the recent runs of a cell, oldest first, without damaged lines."""
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


def _is_recovery(run: HistoryRun, folder: CellFolder) -> bool:
    """Return whether a run passed the stage at which the last one failed."""
    before = runs(folder)[-1:]
    failed = before[0].failure.stage if before and before[0].failure else None
    return failed in {result.stage for result in run.stages}


def _entry(run: CellRun, results: Sequence[StageResult], error: JbuildError | None, stage: str) -> HistoryRun:
    audit, image, publication = run.find(Audit), run.find(Image), run.find(Publication)
    return HistoryRun(
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        stages=tuple(results),
        failure=_failure(error, stage) if error else None,
        digest=image.digest if image else None,
        size=image.size if image else None,
        audit={name: audit.counted(name) for name in ("error", "warning", "info")} if audit else {},
        verdict=error.verdict if isinstance(error, SmokeFailedError) else run.find(Verdict),
        tags=tuple(f"{put.repository}:{tag.name}" for put in publication.registries for tag in put.tags)
        if publication
        else (),
    )


def _failure(error: JbuildError, stage: str) -> Failure:
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

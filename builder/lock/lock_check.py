"""Checks a lock without changing it: whether it is current, and whether the indexes still serve its wheels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.lock.index_sources import index_pins_of
from builder.lock.stage import lock_cell
from builder.pipeline.order import RunOptions
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Job, LockedWheel


@dataclass(frozen=True, kw_only=True, slots=True)
class LockFinding:
    """A locked wheel that its index serves with other bytes or no longer; `kept`: the wheelhouse has it."""

    filename: str
    index: str
    says: str
    kept: bool
    changed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CellCheck:
    """The problems of a cell's lock; it is sound if `error` and `findings` are empty."""

    cell: str
    findings: tuple[LockFinding, ...] = ()
    error: JbuildError | None = None


def check_lock(job: Job, session: Session) -> CellCheck:
    """Check a cell's lock against the pages of the indexes that its packages are pinned to."""
    try:
        lock = lock_cell(job, session, RunOptions(until="lock", locked_only=True)).lock
        ties = index_pins_of(job, session.config)
        client = client_of(session.config, session.workspace.index_states)
        findings = []
        for wheel in lock.wheels:
            index = ties.index(wheel.name)
            page = client.page(index, wheel.name) if index else None
            if index:
                served = {file.filename: file.sha256 for file in page.files} if page else {}
                findings.append(_finding(wheel, index.name, served, session))
    except JbuildError as error:
        return CellCheck(cell=job.cell.id, error=error)
    return CellCheck(cell=job.cell.id, findings=tuple(finding for finding in findings if finding))


def _finding(wheel: LockedWheel, index: str, served: dict[str, str | None], session: Session) -> LockFinding | None:
    if served.get(wheel.filename) == wheel.sha256:
        return None
    is_stored = session.workspace.wheel(wheel.sha256, wheel.filename).is_file()
    stored = "the wheelhouse has the locked file" if is_stored else "the wheelhouse does not have the locked file"
    if wheel.filename in served:
        says = f"the index {index} serves a different file under this name (sha256 {served[wheel.filename]}); {stored}"
        return LockFinding(filename=wheel.filename, index=index, says=says, kept=is_stored, changed=True)
    return LockFinding(
        filename=wheel.filename, index=index, says=f"the index {index} no longer has it; {stored}", kept=is_stored
    )

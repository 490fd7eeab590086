"""Checks a lock without changing it: is it current, and do the indexes still serve what it names?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.lock.index_sources import ties_of
from builder.lock.stage import lock_cell
from builder.pipeline.order import RunOptions
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Job, LockedWheel


@dataclass(frozen=True, kw_only=True, slots=True)
class LockFinding:
    """A locked wheel that its index serves with other bytes, or no longer; `kept` if the wheelhouse has it."""

    filename: str
    index: str
    says: str
    kept: bool
    changed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CellCheck:
    """What is wrong with a cell's lock; nothing if `error` and `findings` are empty."""

    cell: str
    findings: tuple[LockFinding, ...] = ()
    error: JbuildError | None = None


def check_lock(job: Job, session: Session) -> CellCheck:
    """Look at a cell's lock, and at the pages of the indexes that its packages are tied to."""
    try:
        lock = lock_cell(job, session, RunOptions(until="lock", locked_only=True)).lock
        ties = ties_of(job, session.config)
        client = client_of(session.config, session.workspace.index_states)
        found = []
        for wheel in lock.wheels:
            index = ties.index(wheel.name)
            page = client.page(index, wheel.name) if index else None
            if index:
                served = {file.filename: file.sha256 for file in page.files} if page else {}
                found.append(_finding(wheel, index.name, served, session))
    except JbuildError as error:
        return CellCheck(cell=job.cell.id, error=error)
    return CellCheck(cell=job.cell.id, findings=tuple(each for each in found if each))


def _finding(wheel: LockedWheel, index: str, served: dict[str, str | None], session: Session) -> LockFinding | None:
    if served.get(wheel.filename) == wheel.sha256:
        return None
    kept = session.workspace.wheel(wheel.sha256, wheel.filename).is_file()
    where = "the locked file is in the wheelhouse" if kept else "and the locked file is not in the wheelhouse"
    if wheel.filename in served:
        says = f"the index {index} serves another file under this name (sha256 {served[wheel.filename]}); {where}"
        return LockFinding(filename=wheel.filename, index=index, says=says, kept=kept, changed=True)
    return LockFinding(
        filename=wheel.filename, index=index, says=f"the index {index} no longer has it; {where}", kept=kept
    )

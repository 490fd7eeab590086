"""Checks locks without changing them.

Are they current, do the indexes still serve their wheels, and do they have the packages to upgrade?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import JbuildError, LockError, UsageError
from builder.host.toml.documents import nearest
from builder.lock import lockfile
from builder.lock.index_sources import index_pins_of
from builder.lock.stage import lock_cell
from builder.pipeline.order import RunOptions
from builder.remote.index.index_client import client_of
from builder.remote.vault.vaulted_files import vaulted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import Job, LockedWheel


@dataclass(frozen=True, kw_only=True, slots=True)
class LockFinding:
    """A locked wheel that its index serves with other bytes or no longer; `kept`: the wheelhouse or a vault has it."""

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
    findings = []
    try:
        lock = lock_cell(job, session, RunOptions(until="lock", locked_only=True)).lock
        ties = index_pins_of(job, session.config)
        client = client_of(session.config, session.workspace.index_states)
        for wheel in lock.wheels:
            if index := ties.index(wheel.name):
                page = client.page(index, wheel.name)
                served = {file.filename: file.sha256 for file in page.files} if page else {}
                findings.append(_finding(wheel, index.name, served, session))
    except JbuildError as error:
        return CellCheck(cell=job.cell.id, error=error)
    return CellCheck(cell=job.cell.id, findings=tuple(finding for finding in findings if finding))


def _finding(wheel: LockedWheel, index: str, served: dict[str, str | None], session: Session) -> LockFinding | None:
    # A page without hashes says only that the file is there.
    if wheel.filename in served and served[wheel.filename] in (None, wheel.sha256):
        return None
    in_wheelhouse = session.workspace.wheel(wheel.sha256, wheel.filename).is_file()
    in_vault = any(vaulted(wheel.sha256, wheel.filename, session.config))
    kept, changed = in_wheelhouse or in_vault, wheel.filename in served
    other = f"serves a different file under this name (sha256 {served.get(wheel.filename)})"
    where = "a vault" if in_vault and not in_wheelhouse else "the wheelhouse"
    stored = f"{where} has the locked file" if kept else "the wheelhouse does not have the locked file"
    says = f"the index {index} {other if changed else 'no longer has it'}; {stored}"
    return LockFinding(filename=wheel.filename, index=index, says=says, kept=kept, changed=changed)


def check_upgrades(jobs: Sequence[Job], names: Sequence[str], session: Session) -> None:
    """Check that the cells have each package to upgrade (`*` for all), as far as their locks show.

    Raises:
        UsageError: all cells have locks, but none of them has the package.
    """
    if not names:
        return
    names_of_cells: set[str] = set()
    for job in jobs:
        recipe, cell = job.recipe.name, job.cell.id
        try:
            lock = lockfile.read(session.workspace.lock(recipe, cell), recipe=recipe, cell=cell)
        except LockError:
            # Locking reports the damage.
            return
        if lock is None:
            # The packages of this cell are not known yet.
            return
        names_of_cells |= {*lock.versions, *(canonicalize_name(Requirement(text).name) for text in job.spec.requires)}
    for name in names:
        if name != "*" and name not in names_of_cells:
            closest = nearest(name, names_of_cells)
            hint = f"did you mean `{closest}`?" if closest else f"`jbuild show {jobs[0].recipe.name} --json` lists them"
            raise UsageError(f"--upgrade: no selected cell has a package {name}", hint=hint)

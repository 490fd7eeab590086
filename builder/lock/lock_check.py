"""Checks locks without changing them.

Are they current, do the indexes still serve their wheels, and do they have the packages to upgrade?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import JbuildError, LockError, UsageError
from builder.host.wording import nearest
from builder.lock import lockfile
from builder.lock.index_sources import index_pins_of
from builder.lock.source_metadata import archive_name
from builder.lock.stage import lock_cell
from builder.model.locks import LockFinding
from builder.pipeline.order import RunOptions
from builder.remote.index.index_client import client_of
from builder.remote.vault.vaulted_files import vaulted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.model.locks import Job
    from builder.model.wheels import LockedWheel
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import IndexPins


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
        findings += [_source_finding(build, ties, client, session) for build in lock.builds or ()]
    except JbuildError as error:
        return CellCheck(cell=job.cell.id, error=error)
    return CellCheck(cell=job.cell.id, findings=tuple(finding for finding in findings if finding))


def _source_finding(build: LockedBuild, ties: IndexPins, client: IndexClient, session: Session) -> LockFinding | None:
    """Return the problem of a source archive, of which the cache may have a copy."""
    source = build.source
    if source.kind != "sdist" or source.index is None:
        return None
    page = client.page(ties.named(source.index), build.name)
    served = {file.filename: file.sha256 for file in page.files} if page else {}
    filename = archive_name(source.location)
    if served.get(filename) == source.sha256:
        return None
    in_cache = session.workspace.source(source.sha256, filename).is_file()
    in_vault = any(vaulted(source.sha256, filename, session.config))
    kept, changed = in_cache or in_vault, filename in served
    store = "a vault" if in_vault and not in_cache else "the cache"
    return LockFinding(
        filename=filename,
        index=source.index,
        says=_words(source.index, store, served.get(filename), kept=kept, changed=changed),
        kept=kept,
        changed=changed,
    )


def _words(index: str, store: str, served: str | None, *, kept: bool, changed: bool) -> str:
    other = f"serves a different file under this name (sha256 {served})"
    stored = f"{store} has the locked file" if kept else f"{store} does not have the locked file"
    return f"the index {index} {other if changed else 'no longer has it'}; {stored}"


def _finding(wheel: LockedWheel, index: str, served: dict[str, str | None], session: Session) -> LockFinding | None:
    # A page without hashes says only that the file is there.
    if wheel.filename in served and served[wheel.filename] in (None, wheel.sha256):
        return None
    in_wheelhouse = session.workspace.wheel(wheel.sha256, wheel.filename).is_file()
    in_vault = any(vaulted(wheel.sha256, wheel.filename, session.config))
    kept, changed = in_wheelhouse or in_vault, wheel.filename in served
    store = "a vault" if in_vault and not in_wheelhouse else "the wheelhouse"
    says = _words(index, store, served.get(wheel.filename), kept=kept, changed=changed)
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

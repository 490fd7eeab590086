"""Writes a vault: fetches what locks name, stores what is new, and replaces the pages that change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.lock.stage import lock_cell
from builder.pipeline.order import RunOptions
from builder.publish.vault.locked_files import fetch_locked, with_index_facts
from builder.publish.vault.vault_merge import merged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.vaults import Vault
    from builder.publish.vault.vault_folder import VaultFolder
    from builder.publish.vault.wheel_files import StoredFile


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultChange:
    """What was added to a vault: files, their bytes, and the bytes that they take besides the cache's.

    `silent` are the projects whose indexes did not answer: whether their files were yanked is not known.
    """

    vault: Vault
    added: int = 0
    added_bytes: int = 0
    copied_bytes: int = 0
    pages: int = 0
    silent: tuple[str, ...] = ()


def add_locks(
    folder: VaultFolder, jobs: Sequence[Job], session: Session, *, locked_only: bool
) -> tuple[VaultChange, tuple[tuple[Job, JbuildError], ...]]:
    """Add what the locks of cells name to a vault; return the change, and the cells that failed.

    Nothing of a cell whose lock or files cannot be had is added.

    Raises:
        UsageError: the folder holds something else.
        IntegrityError: an index has two files of one name.
        DiskError: the vault cannot be written.
    """
    options = RunOptions(until="lock", locked_only=locked_only)
    known = folder.present().by_content()
    stored: list[StoredFile] = []
    failures: list[tuple[Job, JbuildError]] = []
    silent: set[str] = set()
    for job in jobs:
        try:
            files = fetch_locked(job, lock_cell(job, session, options).lock, session)
        except JbuildError as error:
            failures.append((job, error))
            continue
        new = [item for item in files if (item.file.sha256, item.file.filename) not in known]
        if new:
            new, unanswered = with_index_facts(new, job, session)
            silent |= {*unanswered}
        # The facts of new files come first; of the others only the origins count.
        stored += (*new, *files)
    if failures and not stored:
        return VaultChange(vault=folder.present()), tuple(failures)
    with folder.changing(session.workspace) as before:
        vault = merged(before, [item.file for item in stored], str(folder.path))
        change = _store(folder, vault, stored, session)
    return replace(change, silent=tuple(sorted(silent))), tuple(failures)


def _store(folder: VaultFolder, vault: Vault, stored: Sequence[StoredFile], session: Session) -> VaultChange:
    missing = {item.file.path: item for item in stored if not folder.has(item.file)}
    total, copied = sum(item.file.size for item in missing.values()), 0
    if missing:
        with session.console.task(f"storing {len(missing)} files", total) as task:
            for item in missing.values():
                copied += folder.store(item.file, item.source, item.metadata)
                task.advance(item.file.size)
    pages = folder.publish(vault)
    return VaultChange(vault=vault, added=len(missing), added_bytes=total, copied_bytes=copied, pages=pages)

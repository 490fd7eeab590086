"""Removes unused entries from the cache, also while other jbuild processes run."""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from builder.host.file_locks import abandoned, alone
from builder.host.files import disk_errors, temporary_name
from builder.host.process import run
from builder.lock.solve import uv
from builder.project.cache.cached_images import borrowed, forget_gone, removable
from builder.project.cache.contents import IMAGES, KINDS, MODELS, UV, References, entries, measure, references

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.project.cache.cached_images import CacheEntry

# While another jbuild runs, it may need entries that were used this recently (seconds).
_RECENT_S = 86_400.0
# The kinds that can be removed.
PRUNABLE = (*(kind.name for kind in KINDS), IMAGES, UV)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """The removed entries of a kind: their number, their bytes, and the bytes freed."""

    kind: str
    entries: int
    size: int
    frees: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """The result of a prune. `busy`: another jbuild was running, so images stayed; `skipped` entries were in use."""

    kinds: tuple[Pruned, ...]
    busy: bool
    skipped: int


def prune(
    session: Session, *, older_than_s: float, keep_locked: bool, dry_run: bool, only: Collection[str] = PRUNABLE
) -> PruneResult:
    """Remove entries not used for `older_than_s` seconds; with `keep_locked`, keep those that this project needs.

    `only` are the kinds to remove. While another jbuild runs, images stay, and so do entries used within a day.
    `engine/`, `stand-in/` and files that jbuild did not make always stay.

    Raises:
        LockError: the needs of this project are unknown, since one of its locks is damaged.
        DiskError: an entry cannot be removed.
    """
    workspace = session.workspace
    needed = references(workspace) if keep_locked else References()
    with disk_errors(workspace.cache), alone(workspace) as unwatched:
        before = time.time() - (older_than_s if unwatched else max(older_than_s, _RECENT_S))
        unused = [
            entry
            for entry in entries(workspace, needed)
            if not entry.locked and entry.used < before and entry.kind in only
        ]
        lent = frozenset() if unwatched else frozenset(borrowed(workspace.images, ()).used)
        going = [e for e in unused if e.kind != IMAGES and not (e.kind == MODELS and e.path.name in lent)]
        images = [entry for entry in unused if entry.kind == IMAGES] if unwatched else []
        removed = (
            going if dry_run else [entry for entry in going if _remove(entry, workspace, before, unwatched=unwatched)]
        )
        kinds = [_pruned(kind.name, removed) for kind in KINDS]
        kinds.append(_prune_images(images, workspace, dry_run=dry_run))
        kinds.append(_prune_abandoned(workspace, dry_run=dry_run))
        if not dry_run:
            if UV in only:
                kinds.append(_prune_uv(workspace))
            if unwatched:
                _tidy(workspace)
    return PruneResult(kinds=tuple(kinds), busy=not unwatched, skipped=len(going) - len(removed))


def _tidy(workspace: Workspace) -> None:
    """Remove the lock files of ended downloads, empty folders, and the unpacked wheels of earlier releases."""
    shutil.rmtree(workspace.cache / "trees", ignore_errors=True)
    for path in (workspace.models / "partial").glob("*.lock"):
        path.unlink()
    for path in workspace.wheels.glob("??/*/lock"):
        if all(sibling.name == path.name for sibling in path.parent.iterdir()):
            shutil.rmtree(path.parent)
    for kind in KINDS:
        for folder in (workspace.cache / kind.folder).glob("??"):
            with suppress(OSError):
                folder.rmdir()


def _pruned(kind: str, removed: Sequence[CacheEntry]) -> Pruned:
    members = [entry for entry in removed if entry.kind == kind]
    size, frees = sum(entry.size for entry in members), sum(entry.frees for entry in members)
    return Pruned(kind=kind, entries=len(members), size=size, frees=frees)


def _remove(entry: CacheEntry, workspace: Workspace, before: float, *, unwatched: bool) -> bool:
    """Remove an entry unless a process holds it or has used it in the meantime."""
    with _locked(entry, workspace) as locked:
        if not locked or _last_use(entry.path) >= before:
            return False
        if entry.kind == "wheels" and not unwatched:
            # Another process may wait for the lock inside: the folder stays, and the lock with it.
            for path in entry.path.iterdir():
                if path.name != "lock":
                    path.unlink()
            return True
        # Renamed first, so that other processes see all of it or nothing.
        renamed = entry.path.with_name(temporary_name(entry.path.name))
        entry.path.rename(renamed)
        shutil.rmtree(renamed) if renamed.is_dir() and not renamed.is_symlink() else renamed.unlink()
        return True


@contextmanager
def _locked(entry: CacheEntry, workspace: Workspace) -> Iterator[bool]:
    """Hold the lock of the processes that make this entry; yield False if one of them holds it."""
    path = _lock_of(entry, workspace)
    if path is None or not path.parent.is_dir():
        yield True
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _lock_of(entry: CacheEntry, workspace: Workspace) -> Path | None:
    if entry.kind == "wheels":
        return entry.path / "lock" if entry.path.is_dir() else None
    if entry.kind in ("models", "model downloads"):
        return workspace.models / "partial" / f"{entry.path.name}.lock"
    return None


def _last_use(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.lstat().st_ctime
    return float("inf")


def _prune_images(going: list[CacheEntry], workspace: Workspace, *, dry_run: bool) -> Pruned:
    blobs = removable(workspace.images, going)
    if not dry_run:
        for path in blobs:
            path.unlink(missing_ok=True)
        forget_gone(workspace.images)
    size = sum(blobs.values())
    return Pruned(kind=IMAGES, entries=len(going), size=size, frees=size)


def _prune_abandoned(workspace: Workspace, *, dry_run: bool) -> Pruned:
    """Remove the leftovers of killed `build --verify` processes."""
    folders = abandoned(workspace.cache)
    size = frees = 0
    for folder in folders:
        folder_size, folder_frees, _ = measure(folder)
        size, frees = size + folder_size, frees + folder_frees
        if not dry_run:
            shutil.rmtree(folder, ignore_errors=True)
    return Pruned(kind="scratch", entries=len(folders), size=size, frees=frees)


def _prune_uv(workspace: Workspace) -> Pruned:
    """Run uv's own prune, which locks out uv's other processes."""
    folder = workspace.cache / UV
    if not folder.is_dir():
        return Pruned(kind=UV, entries=0, size=0, frees=0)
    before = measure(folder)[0]
    run([uv(), "cache", "prune", "--quiet"], env={"UV_CACHE_DIR": str(folder)})
    size = max(0, before - measure(folder)[0])
    return Pruned(kind=UV, entries=0, size=size, frees=size)

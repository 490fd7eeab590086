"""Temporary folders on the cache's disk, and locks of files and of the cache, which end with their process."""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host import owner
from builder.host.files import disk_errors
from builder.host.paths import check_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.host.paths import Workspace

_SCRATCH, _LOCK_FILE = "scratch-", "held"
_IN_USE = "cache-in-use"
_LOCK_POLL_S = 0.5
_NAME = re.compile(rf"{_SCRATCH}(?P<owner>{owner.PATTERN})-\w+")
# For folders whose names have no owner: a new one is locked within a minute; one without a lock file for a day is
# abandoned.
_SOON_S, _LONG_S = 60.0, 86_400.0


@contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """Yield an empty folder on the cache's disk, removed at the end; those of killed processes are removed first."""
    for folder in abandoned(cache):
        # Another process may be removing it too.
        shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    prefix = f"{_SCRATCH}{owner.own_word()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache) as name, (Path(name) / _LOCK_FILE).open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield Path(name)


def abandoned(cache: Path) -> list[Path]:
    """Return the folders of `scratch` whose processes have ended."""
    return [folder for folder in sorted(cache.glob(f"{_SCRATCH}*")) if folder.is_dir() and _is_abandoned(folder)]


def _is_abandoned(folder: Path) -> bool:
    if match := _NAME.fullmatch(folder.name):
        return owner.has_ended(match["owner"])
    try:
        age_s = time.time() - folder.lstat().st_ctime
        with (folder / _LOCK_FILE).open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # Its owner works in it, or it is another user's.
        return False
    except FileNotFoundError:
        # Its owner has not locked it yet, or is removing it.
        return folder.is_dir() and age_s > _LONG_S
    return age_s > _SOON_S


@contextmanager
def in_use(workspace: Workspace) -> Iterator[None]:
    """Keep prunes from removing images while the block runs, after a running one has ended.

    Raises:
        DiskError: the cache cannot be used.
    """
    with _opened(workspace) as number:
        fcntl.flock(number, fcntl.LOCK_SH)
        yield


@contextmanager
def alone(workspace: Workspace) -> Iterator[bool]:
    """Yield whether no other process uses the cache; if so, others wait while the block runs.

    Raises:
        DiskError: the cache cannot be used.
    """
    with _opened(workspace) as number:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _opened(workspace: Workspace) -> Iterator[int]:
    check_cache(workspace)
    folder = workspace.locks_in_use
    with disk_errors(folder):
        file = (folder / _IN_USE).open("ab")
    with file:
        yield file.fileno()


@contextmanager
def file_lock(path: Path, check: Callable[[], object]) -> Iterator[None]:
    """Hold a lock file against other threads and processes; `check` is called while waiting, and may raise."""
    from filelock import FileLock, Timeout  # noqa: PLC0415  # slow to import; completion does without

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while not lock.is_locked:
        check()
        try:
            lock.acquire(timeout=_LOCK_POLL_S)
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()

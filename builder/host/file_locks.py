"""Folders for a while on the cache's disk, which go with their owner however that ends.

Locks of `flock` tell who holds one: they end with their process.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.files import disk_errors
from builder.host.paths import check_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.paths import Workspace

# A second build has a project and a cache of its own in such a folder; each export goes through one.
_SCRATCH, _HELD = "scratch-", "held"
# A folder is held within seconds of being made, and is never without its lock for as long as a day.
_SOON_S, _LONG_S = 60.0, 86_400.0


@contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    """Give an empty folder on the cache's disk, removed at the end; those of processes that were killed go first."""
    for left in abandoned(cache):
        # Another process may be removing it too.
        shutil.rmtree(left, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as name, (Path(name) / _HELD).open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield Path(name)


def abandoned(cache: Path) -> list[Path]:
    """Return the folders of `scratch` that nobody holds any more."""
    return [folder for folder in sorted(cache.glob(f"{_SCRATCH}*")) if folder.is_dir() and _is_abandoned(folder)]


def _is_abandoned(folder: Path) -> bool:
    try:
        age_s = time.time() - folder.lstat().st_ctime
        with (folder / _HELD).open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        # Its owner has not come to hold it, or is about to remove it.
        return folder.is_dir() and age_s > _LONG_S
    return age_s > _SOON_S


_NAME = "cache-in-use"


@contextmanager
def in_use(workspace: Workspace) -> Iterator[None]:
    """Lock out a prune while the block runs; wait for a running one.

    Raises:
        DiskError: the cache cannot be used.
    """
    with _opened(workspace) as number:
        fcntl.flock(number, fcntl.LOCK_SH)
        yield


@contextmanager
def alone(workspace: Workspace) -> Iterator[bool]:
    """Yield whether no other process uses the cache; if so, lock others out while the block runs.

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
        file = (folder / _NAME).open("ab")
    with file:
        yield file.fileno()

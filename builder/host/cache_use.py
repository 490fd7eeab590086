"""Who uses the cache just now: every run holds it together with others, a prune wants it alone.

Locks of `flock`: they end with their process, however it ends.
"""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.host.paths import check_cache, disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.paths import Workspace

_NAME = "cache-in-use"


@contextmanager
def in_use(workspace: Workspace) -> Iterator[None]:
    """Keep a prune from taking images away while the block runs; waits for one that is at it.

    Raises:
        DiskError: the cache cannot be used.
    """
    with _opened(workspace) as number:
        fcntl.flock(number, fcntl.LOCK_SH)
        yield


@contextmanager
def alone(workspace: Workspace) -> Iterator[bool]:
    """Tell whether nobody else uses the cache; if so, nobody begins while the block runs.

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

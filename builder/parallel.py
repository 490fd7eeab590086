"""Work on several processors at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.errors import JbuildError

if TYPE_CHECKING:
    from collections.abc import Iterator


def _ignore_interrupt() -> None:
    # The main process decides what Ctrl-C means; workers are ended with the pool.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """Give a pool with one process a processor; on any exception what has not begun is dropped."""
    # Forking a process that has threads can deadlock; a fork server has none.
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(os.cpu_count() or 2, mp_context=context, initializer=_ignore_interrupt)
    try:
        yield pool
    except BrokenProcessPool as error:
        hint = "look for `Out of memory` in `dmesg`; close other programs, then run the same command again"
        message = "a worker process was ended from outside, as the kernel does when memory is short"
        raise JbuildError(message, hint=hint) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


__all__ = ["Future", "workers"]

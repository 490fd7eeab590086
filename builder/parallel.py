"""Work on several processors, or on several connections, at once."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sysconfig
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any

from builder.errors import JbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LAST_WORDS_S = 2.0


def _start_server() -> None:
    """Start the fork server deaf to Ctrl-C, and its workers with it: what it means is the main process's decision."""
    # The tracker first: starting it lets the signal through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the main process is killed: nothing else would, for its pipes have several owners."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """Give a pool with one process a processor; on any exception what has not begun is dropped."""
    # Forking a process that has threads can deadlock; a fork server has none.
    context = multiprocessing.get_context("forkserver")
    _start_server()
    pool = ProcessPoolExecutor(os.cpu_count() or 2, mp_context=context, initializer=_begin)
    try:
        yield pool
    except BrokenProcessPool as error:
        hint = "look for `Out of memory` in `dmesg`; close other programs, then run the same command again"
        message = "a worker process was ended from outside, as the kernel does when memory is short"
        raise JbuildError(message, hint=hint) from error
    except BaseException:
        # Waiting here costs nothing: the end of the process would wait too, and stumble over a pool that just ends.
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


class Threads(Executor):
    """Threads that wait for servers.

    They are daemons, unlike those of `ThreadPoolExecutor`: a process that is interrupted ends soon, and not when a
    server that has fallen silent has run into its time limit.
    """

    def __init__(self, count: int) -> None:
        """Start `count` threads."""
        # Until Python 3.13, who asks first, from one of several threads, makes the others see half of it.
        sysconfig.get_config_vars()
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Have a function called in one of the threads."""
        future: Future[Any] = Future()
        self._waiting.put((future, partial(function, *arguments, **options)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads; those that do not end within two seconds are left to the end of the process."""
        with suppress(queue.Empty):
            while cancel_futures and (item := self._waiting.get_nowait()):
                item[0].cancel()
        for _ in self._threads:
            self._waiting.put(None)
        until = time.monotonic() + (_LAST_WORDS_S if wait else 0.0)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while item := self._waiting.get():
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  # raised where the result is awaited
                future.set_exception(error)


__all__ = ["Future", "Threads", "workers"]

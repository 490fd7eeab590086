"""Concurrent work: threads that wait for servers, and processes that compute."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sysconfig
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from builder.errors import JbuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Item = TypeVar("_Item")

_GRACE_S = 2.0


class StoppedError(Exception):
    """The result of a job is no longer needed."""


class CancelToken:
    """Ends jobs, which check it between steps. Cancelling a token cancels its children."""

    def __init__(self) -> None:
        """Start uncancelled."""
        self._event = threading.Event()
        self._children: list[CancelToken] = []

    def child(self) -> CancelToken:
        """Return a token that is cancelled with this one, but can be cancelled alone."""
        token = CancelToken()
        self._children.append(token)
        if self._event.is_set():
            token.cancel()
        return token

    def cancel(self) -> None:
        """End all jobs at their next check."""
        self._event.set()
        for token in self._children:
            token.cancel()

    def check(self) -> None:
        """End the calling job if the token is cancelled.

        Raises:
            StoppedError: the token is cancelled.
        """
        if self._event.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Sleep, at most until the token is cancelled.

        Raises:
            StoppedError: the token is cancelled.
        """
        self._event.wait(seconds)
        self.check()


class TaskGroup:
    """Runs jobs in at most `limit` threads; a context manager that leaves no thread behind.

    On any exception inside the `with` block (Ctrl-C included), the group is cancelled: `token` is cancelled, jobs
    that have not started are dropped, `on_cancel` is called, and running jobs get `grace_s` seconds to end (None: as
    long as they need). The threads are daemons, so that the process can end before a silent server has timed out.
    """

    def __init__(
        self,
        limit: int,
        *,
        token: CancelToken | None = None,
        on_cancel: Callable[[], object] | None = None,
        grace_s: float | None = _GRACE_S,
    ) -> None:
        """Start without threads; each job starts one until there are `limit`."""
        # Before Python 3.13 other threads see the table half filled during the first call.
        sysconfig.get_config_vars()
        self.token = token or CancelToken()
        self._limit, self._on_cancel, self._grace_s = limit, on_cancel, grace_s
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.cancel()
        for _ in self._threads:
            self._queue.put(None)
        deadline = None if error is None or self._grace_s is None else time.monotonic() + self._grace_s
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def submit(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call a function in one of the threads; its failure does not cancel the group."""
        future: Future[_T] = Future()
        self._queue.put((future, partial(function, *args, **kwargs)))
        if len(self._threads) < self._limit:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def map(self, function: Callable[[_Item], _T], items: Iterable[_Item]) -> list[_T]:
        """Call a function for each item and return the results in order.

        The first failure cancels the group's token and is raised without waiting for the other jobs.
        """
        failures: list[BaseException] = []

        def guarded(item: _Item) -> _T:
            try:
                return function(item)
            except BaseException as error:
                failures.append(error)
                # Here, since this thread would start the next job before the result is awaited.
                self.token.cancel()
                raise

        futures = [self.submit(guarded, item) for item in items]
        wait(futures, return_when=FIRST_EXCEPTION)
        if failures:
            raise failures[0]
        return [future.result() for future in futures]

    def gather(self, function: Callable[[_Item], _T], items: Iterable[_Item]) -> list[_T | Exception]:
        """Call a function for each item and return its results and exceptions in order; a failure stops nothing."""
        futures = [self.submit(function, item) for item in items]
        wait(futures)
        errors = [future.exception() for future in futures]
        return [
            error if isinstance(error, Exception) else future.result()
            for error, future in zip(errors, futures, strict=True)
        ]

    def cancel(self) -> None:
        """Cancel the token, drop all jobs that have not started, and call `on_cancel`."""
        self.token.cancel()
        with suppress(queue.Empty):
            while job := self._queue.get_nowait():
                job[0].cancel()
        if self._on_cancel:
            self._on_cancel()

    def _work(self) -> None:
        while job := self._queue.get():
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self.token.check()
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  # raised where the result is awaited
                future.set_exception(error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Counts the bytes of a job, and ends it when its token is cancelled."""

    token: CancelToken = field(default_factory=CancelToken)
    on_bytes: Callable[[float], object] = lambda _: None

    def advance(self, amount: float) -> None:
        """Count `amount` bytes more.

        Raises:
            StoppedError: the token is cancelled.
        """
        self.token.check()
        self.on_bytes(amount)


def map_with_progress(
    work: Callable[[_Item, Progress], _T], items: Sequence[_Item], on_bytes: Callable[[float], object], limit: int = 4
) -> list[_T]:
    """Do the work for every item in threads and return the results in order; the first failure ends all.

    The default `limit` fills a fast connection; more threads would make the disk seek.
    """
    with TaskGroup(limit) as group:
        progress = Progress(token=group.token, on_bytes=on_bytes)
        return group.map(lambda item: work(item, progress), items)


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """Yield a pool with one process a processor; on any exception, jobs that have not started are dropped.

    Raises:
        JbuildError: a worker process was killed.
    """
    # Forking a process that has threads can deadlock; a fork server has none.
    context = multiprocessing.get_context("forkserver")
    _start_fork_server()
    pool = ProcessPoolExecutor(os.cpu_count() or 2, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        hint = "look for `Out of memory` in `dmesg`; close other programs, then run the same command again"
        message = "a worker process was killed, as the kernel does when memory is short"
        raise JbuildError(message, hint=hint) from error
    except BaseException:
        # Without waiting here, the process would wait at its end, and fail on a pool that is shutting down.
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _start_fork_server() -> None:
    """Start the fork server, and so its workers, with Ctrl-C blocked: the main process decides when they end."""
    # The tracker first: starting it unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the main process is killed: its pipes have several owners and stay open."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)

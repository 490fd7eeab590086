"""Work on several things at once, so that Ctrl-C and a first failure end it soon."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")

_LAST_WORDS_S = 2.0


class StoppedError(Exception):
    """Raised inside a job that is to end because its result is not wanted any more."""


class Stop:
    """A switch that jobs look at; a child's switch is thrown with its parent's."""

    def __init__(self) -> None:
        """Begin with the switch not thrown."""
        self._event = threading.Event()
        self._children: list[Stop] = []

    def child(self) -> Stop:
        """Return a switch for a part of the work."""
        made = Stop()
        self._children.append(made)
        if self._event.is_set():
            made.throw()
        return made

    def throw(self) -> None:
        """Ask all jobs to end."""
        self._event.set()
        for each in self._children:
            each.throw()

    def check(self) -> None:
        """End the calling job if the switch is thrown.

        Raises:
            StoppedError: it is.
        """
        if self._event.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until the switch is thrown.

        Raises:
            StoppedError: it is thrown.
        """
        self._event.wait(seconds)
        self.check()


def run_all(jobs: Sequence[Callable[[], _T]], workers: int, stop: Stop) -> list[_T | Exception]:
    """Run jobs in threads and return, in their order, what each returned or raised.

    The threads are daemons: a process that is interrupted ends at once, and not when a slow server has answered.
    """
    outcomes: list[_T | Exception] = [StoppedError()] * len(jobs)
    waiting = deque(enumerate(jobs))

    def work() -> None:
        while waiting:
            try:
                index, job = waiting.popleft()
            except IndexError:
                return
            try:
                stop.check()
                outcomes[index] = job()
            except Exception as error:  # noqa: BLE001  # handed to the caller, who raises it
                outcomes[index] = error

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop.throw()
        until = time.monotonic() + _LAST_WORDS_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        raise
    return outcomes


def run_or_raise(jobs: Sequence[Callable[[], _T]], workers: int, stop: Stop) -> list[_T]:
    """Run jobs in threads and return their results in order; the first failure stops the others and is raised."""

    def guarded(job: Callable[[], _T]) -> Callable[[], _T]:
        def run() -> _T:
            try:
                return job()
            except Exception:
                stop.throw()
                raise

        return run

    outcomes = run_all([guarded(job) for job in jobs], workers, stop)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for failure in sorted(failures, key=lambda f: isinstance(f, StoppedError)):
        raise failure
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]

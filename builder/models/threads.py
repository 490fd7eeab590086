"""Threads that work for one purpose: when one fails, or Ctrl-C is pressed, all end soon."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from typing import TYPE_CHECKING, TypeVar

from builder.parallel import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")
# Enough to fill a fast line; more would only make the disk seek.
_PARALLEL = 4


class StoppedError(Exception):
    """Another thread has failed."""


class Watch:
    """Counts progress, and ends the thread that reports it when the others have ended."""

    def __init__(self, on_bytes: Callable[[float], object]) -> None:
        """Pass progress on to `on_bytes`, which may raise to end everything."""
        self._on_bytes = on_bytes
        self._stopped = threading.Event()

    def advance(self, amount: float) -> None:
        """Count `amount` bytes more.

        Raises:
            StoppedError: another thread has failed.
        """
        if self._stopped.is_set():
            raise StoppedError
        self._on_bytes(amount)

    def look(self) -> None:
        """Do nothing, or raise as `advance` does."""
        self.advance(0)

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than the others work."""
        self._stopped.wait(seconds)
        self.look()

    def stop(self) -> None:
        """End all threads at their next progress."""
        self._stopped.set()


def together(
    work: Callable[[str, Watch], _T], keys: Sequence[str], on_bytes: Callable[[float], object]
) -> dict[str, _T]:
    """Do the work for every key in a few threads, in the keys' order, and return the results by key.

    Raises whatever the first piece of work that fails raises.
    """
    watch = Watch(on_bytes)

    def one(key: str) -> _T:
        watch.look()
        try:
            return work(key, watch)
        except BaseException:
            # Here, not where the result is awaited: this thread would begin with the next key meanwhile.
            watch.stop()
            raise

    pool = Threads(_PARALLEL)
    try:
        running = {key: pool.submit(one, key) for key in keys}
        wait(running.values())
        failures = [error for error in (future.exception() for future in running.values()) if error]
        if failures:
            raise next((f for f in failures if not isinstance(f, StoppedError)), failures[0])
        return {key: future.result() for key, future in running.items()}
    finally:
        watch.stop()
        pool.shutdown(cancel_futures=True)

"""A hash that a thread of its own computes, beside the one that reads and writes the stream."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING

from builder.host.concurrency import TaskGroup

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from typing_extensions import Self

# The most blocks that wait to be hashed.
_WAITING = 4


class ThreadedHash:
    """The sha256 of `before`, a stream and `after`, such as a file in its tar; a context manager."""

    def __init__(self, before: bytes = b"", after: bytes = b"") -> None:
        """Start with an empty stream."""
        self.before, self.after = before, after
        self._thread = TaskGroup(1)
        self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.__exit__(kind, error, traceback)

    def restart(self) -> None:
        """Drop the stream so far."""
        self._digest = hashlib.sha256(self.before)
        self._waiting: deque[Future[None]] = deque()

    def update(self, block: bytes) -> None:
        """Append the next bytes of the stream."""
        self._waiting.append(self._thread.submit(self._digest.update, block))
        if len(self._waiting) > _WAITING:
            self._waiting.popleft().result()

    def hexdigest(self) -> str:
        """Return the hash of the whole, in hex; the stream ends here."""
        while self._waiting:
            self._waiting.popleft().result()
        whole = self._digest.copy()
        whole.update(self.after)
        return whole.hexdigest()

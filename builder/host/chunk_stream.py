"""Chunks of bytes, such as those of an engine's answer, as a file that is read once."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

_BUFFER = 1 << 20


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__()
        # An empty chunk is not the end.
        self._chunks, self._rest = filter(None, chunks), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # all that BufferedReader gives
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def as_file(chunks: Iterable[bytes]) -> IO[bytes]:
    """Return chunks as a file; they are taken as they are read."""
    return cast("IO[bytes]", io.BufferedReader(_Chunks(chunks), _BUFFER))

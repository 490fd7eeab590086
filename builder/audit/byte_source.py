"""Random access to the bytes of a file, or of a zip's member without unpacking it. All reading is bounded."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from builder.errors import AuditError

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 4 << 20
_INPUT = 256 << 10
_KEPT_BLOCKS = 4


class MalformedError(AuditError):
    """A file is cut off, inconsistent or too large."""


class ByteSource(Protocol):
    """Bytes of a known size with random access."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on.

        Raises:
            MalformedError: there are fewer.
        """


class Plain:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        """Return some of the bytes."""
        _check(offset, size, self.size)
        return self._data[offset : offset + size]


class File:
    """The bytes of a file, read on demand: a mapping would count as memory of this process."""

    def __init__(self, path: Path) -> None:
        """Open the file; it is closed with the last reference to this object.

        Raises:
            MalformedError: it cannot be read.
        """
        try:
            self._file = path.open("rb", buffering=0)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise MalformedError(f"cannot be read: {error.strerror or error}", where=str(path)) from error

    def read(self, offset: int, size: int) -> bytes:
        """Return some of the bytes."""
        _check(offset, size, self.size)
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise MalformedError("the file became shorter while it was read")
        return data


class SourceRange:
    """A range of other bytes."""

    def __init__(self, whole: ByteSource, start: int, size: int) -> None:
        """Take `size` bytes of `whole` from `start` on.

        Raises:
            MalformedError: there are fewer.
        """
        _check(start, size, whole.size)
        self._whole, self._start, self.size = whole, start, size

    def read(self, offset: int, size: int) -> bytes:
        """Return some of the bytes."""
        _check(offset, size, self.size)
        return self._whole.read(self._start + offset, size)


class Deflated:
    """The bytes of a deflated stream, in blocks that are inflated on demand.

    It stores the state of the inflater at each block's start (some 40 kB a block), so that going back inflates one
    block only. Memory does not depend on the size.
    """

    def __init__(self, data: ByteSource, size: int) -> None:
        """Take raw deflated bytes and their claimed size once inflated."""
        self._data = data
        self.size = size
        self._marks = [(0, zlib.decompressobj(-zlib.MAX_WBITS))]
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of some bytes."""
        _check(offset, size, self.size)
        if not size:
            return b""
        first, last = offset // _BLOCK, (offset + size - 1) // _BLOCK
        if first == last:
            start = offset - first * _BLOCK
            data = self._block(first)[start : start + size]
        else:
            blocks = [self._block(number) for number in range(first, last + 1)]
            blocks[0] = blocks[0][offset - first * _BLOCK :]
            blocks[-1] = blocks[-1][: offset + size - last * _BLOCK]
            data = b"".join(blocks)
        if len(data) != size:
            raise MalformedError("the zip member ends before its declared size")
        return data

    def head(self, size: int) -> bytes:
        """Return the first bytes, or fewer, without inflating more than these."""
        length = min(self._data.size, size + 1024)
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(self._data.read(0, length), size)
        except zlib.error as error:
            raise MalformedError(f"the zip member cannot be inflated: {error}") from error

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            while len(self._marks) <= number:
                self._inflate(len(self._marks) - 1)
            block = self._inflate(number)
        else:
            self._blocks.move_to_end(number)
        return block

    def _inflate(self, number: int) -> bytes:
        """Inflate a block whose mark exists, cache it, and set the next mark."""
        if number in self._blocks and number + 1 < len(self._marks):
            return self._blocks[number]
        position, state = self._marks[number]
        length = min(_BLOCK, self.size - number * _BLOCK)
        block, position, state = _inflate(self._data, position, state.copy(), length)
        if number + 1 == len(self._marks):
            self._marks.append((position, state))
        self._blocks[number] = block
        if len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return block


def _inflate(
    data: ByteSource, position: int, state: zlib._Decompress, length: int
) -> tuple[bytes, int, zlib._Decompress]:
    chunks, missing = [], length
    try:
        while missing and not state.eof:
            compressed = data.read(position, min(_INPUT, data.size - position))
            chunk = state.decompress(compressed, missing)
            consumed = len(compressed) - len(state.unconsumed_tail)
            if not chunk and not consumed:
                break
            position += consumed
            missing -= len(chunk)
            chunks.append(chunk)
    except zlib.error as error:
        raise MalformedError(f"the zip member cannot be inflated: {error}") from error
    return b"".join(chunks), position, state


def _check(offset: int, size: int, whole: int) -> None:
    if offset < 0 or size < 0 or offset + size > whole:
        raise MalformedError(f"bytes {offset} to {offset + size} are outside its {whole} bytes")

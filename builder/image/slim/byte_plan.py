"""Bytes to write, described by those of another source: copies, zeros, and bytes in memory."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from builder.audit.byte_source import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.byte_source import ByteSource

_BLOCK = 1 << 20


class Copy(NamedTuple):
    """Some bytes of the source."""

    offset: int
    size: int


class Zeros(NamedTuple):
    """A number of zeros."""

    size: int


Chunk: TypeAlias = Copy | Zeros | bytes


class Region(NamedTuple):
    """A range of the source, and the chunks that replace it; they may be shorter."""

    start: int
    stop: int
    chunks: tuple[Chunk, ...]


def length(chunk: Chunk) -> int:
    """Return the number of bytes of a chunk."""
    return len(chunk) if isinstance(chunk, bytes) else chunk.size


def arranged(size: int, regions: Sequence[Region], patches: dict[int, bytes]) -> tuple[Chunk, ...]:
    """Return a source of `size` bytes with some regions and, outside of them, some bytes replaced.

    Raises:
        MalformedError: regions or patches overlap.
    """
    chunks: list[Chunk] = []
    positions = sorted(patches)
    at = 0
    for region in (*sorted(regions), Region(size, size, ())):
        if not at <= region.start <= region.stop <= size:
            raise MalformedError("tables of the library overlap its GPU code")
        first, last = bisect_left(positions, at), bisect_left(positions, region.start)
        for position in positions[first:last]:
            patch = patches[position]
            if position < at or position + len(patch) > region.start:
                raise MalformedError("tables of the library overlap each other or its GPU code")
            chunks += [Copy(at, position - at), patch]
            at = position + len(patch)
        if bisect_left(positions, region.stop) != last:
            raise MalformedError("tables of the library overlap its GPU code")
        chunks += [Copy(at, region.start - at), *region.chunks]
        at = region.stop
    return tuple(_merged(chunk for chunk in chunks if length(chunk)))


def _merged(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    previous: Chunk = b""
    for chunk in chunks:
        if isinstance(chunk, Copy) and isinstance(previous, Copy) and previous.offset + previous.size == chunk.offset:
            previous = Copy(previous.offset, previous.size + chunk.size)
        elif isinstance(chunk, Zeros) and isinstance(previous, Zeros):
            previous = Zeros(previous.size + chunk.size)
        else:
            if length(previous):
                yield previous
            previous = chunk
    if length(previous):
        yield previous


def blocks(source: ByteSource, chunks: Sequence[Chunk]) -> Iterator[bytes]:
    """Yield the bytes of chunks in blocks of at most 1 MiB.

    Raises:
        MalformedError: the source is cut off.
    """
    for chunk in chunks:
        for start in range(0, length(chunk), _BLOCK):
            size = min(_BLOCK, length(chunk) - start)
            if isinstance(chunk, Copy):
                yield source.read(chunk.offset + start, size)
            elif isinstance(chunk, Zeros):
                yield bytes(size)
            else:
                yield chunk[start : start + size]

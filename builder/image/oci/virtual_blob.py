"""Virtual blobs: a sequence of literal bytes and files of the cache.

The weights of a model seldom compress. A copy in a blob would double their space on the disk.
"""

from __future__ import annotations

import base64
import io
import os
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import IO, TYPE_CHECKING, cast

from builder.host import records
from builder.host.files import mark_used, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.host.tarball import Content

# The folder of their records in a layout.
FOLDER = "pieces"
_READ_AHEAD = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """`size` bytes of a blob: those of `file`, a path relative to the layout, or `literal` ones in base64.

    They begin at `offset`; None: they are the whole file, whose name is its sha256.
    """

    size: int
    file: str | None = None
    literal: str = ""
    offset: int | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualBlob:
    """The extents of a virtual blob, in order."""

    pieces: tuple[Extent, ...]

    @property
    def size(self) -> int:
        """The blob's size in bytes."""
        return sum(extent.size for extent in self.pieces)


def record_path(layout: Path, digest: str) -> Path:
    """Return the file of a virtual blob's record."""
    algorithm, _, value = digest.partition(":")
    return layout / FOLDER / algorithm / value


def write(layout: Path, digest: str, segments: Iterable[bytes | Content]) -> None:
    """Write the record of a virtual blob, without copying its contents.

    Raises:
        DiskError: it cannot be written.
    """
    extents = tuple(_extent(segment, layout) for segment in segments)
    write_record(layout, digest, VirtualBlob(pieces=extents))


def write_record(layout: Path, digest: str, record: VirtualBlob) -> None:
    """Write the record of a virtual blob.

    Raises:
        DiskError: it cannot be written.
    """
    records.write(record_path(layout, digest), digest, record)


def cut(whole: VirtualBlob, offset: int, size: int) -> VirtualBlob:
    """Return `size` bytes of slices of files, from an offset on."""
    pieces, begin = [], 0
    for extent in whole.pieces:
        first, last = max(offset, begin), min(offset + size, begin + extent.size)
        if first < last:
            pieces.append(replace(extent, size=last - first, offset=(extent.offset or 0) + first - begin))
        begin += extent.size
    return VirtualBlob(pieces=tuple(pieces))


def read(layout: Path, digest: str) -> VirtualBlob | None:
    """Return a virtual blob, or None if it has no record, or if a file is missing or has another size."""
    record = records.read(record_path(layout, digest), digest, VirtualBlob)
    if record is None:
        return None
    try:
        return record if all(_has_bytes(layout, extent) for extent in record.pieces) else None
    except OSError:
        return None


def _has_bytes(layout: Path, extent: Extent) -> bool:
    if extent.file is None:
        return True
    size = (layout / extent.file).stat().st_size
    return size == extent.size if extent.offset is None else size >= extent.offset + extent.size


def open_virtual_blob(layout: Path, digest: str) -> IO[bytes]:
    """Open a virtual blob for reading.

    Raises:
        FileNotFoundError: there is no such blob, or one of its files is missing.
    """
    record = read(layout, digest)
    if record is None:
        raise FileNotFoundError(f"{record_path(layout, digest)} or a file of it is missing")
    return open_extents(layout, record)


def open_extents(layout: Path, record: VirtualBlob) -> IO[bytes]:
    """Open the bytes of a virtual blob for reading; the file is seekable."""
    return cast("IO[bytes]", io.BufferedReader(_BlobReader(layout, record.pieces), _READ_AHEAD))


def mark_files_used(layout: Path, digest: str) -> None:
    """Mark a virtual blob and its files as used."""
    record = records.read(record_path(layout, digest), digest, VirtualBlob)
    for file in files_of(layout, record) if record else ():
        mark_used(file)
    mark_used(record_path(layout, digest))


def files_of(layout: Path, record: VirtualBlob) -> tuple[Path, ...]:
    """Return the files of a virtual blob."""
    return tuple(layout / extent.file for extent in record.pieces if extent.file)


def changed_file(layout: Path, digest: str) -> Path | None:
    """Return the first whole file of a virtual blob whose content does not match its name."""
    record = records.read(record_path(layout, digest), digest, VirtualBlob)
    files = (
        [layout / extent.file for extent in record.pieces if extent.file and extent.offset is None] if record else []
    )
    return next((file for file in files if sha256_of(file) != file.name), None)


def _extent(segment: bytes | Content, layout: Path) -> Extent:
    if isinstance(segment, bytes):
        return Extent(size=len(segment), literal=base64.b64encode(segment).decode())
    return Extent(size=segment.size, file=os.path.relpath(segment.path, layout))


class _BlobReader(io.RawIOBase):
    """The extents as one file."""

    def __init__(self, layout: Path, extents: Sequence[Extent]) -> None:
        super().__init__()
        self._layout, self._pieces = layout, [extent for extent in extents if extent.size]
        self._ends = list(accumulate(extent.size for extent in self._pieces))
        self._at = 0
        self._open: tuple[int, IO[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._ends[-1] if self._ends else 0}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        index = bisect_right(self._ends, self._at)
        if index == len(self._pieces):
            return 0
        left = self._ends[index] - self._at
        inside = self._pieces[index].size - left
        file = self._file(index)
        file.seek((self._pieces[index].offset or 0) + inside)
        count = file.readinto(memoryview(buffer)[:left])  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"{self._pieces[index].file} became shorter while it was read")
        self._at += count
        return int(count)

    def close(self) -> None:
        if self._open:
            self._open[1].close()
            self._open = None
        super().close()

    def _file(self, index: int) -> IO[bytes]:
        if self._open is None or self._open[0] != index:
            if self._open:
                self._open[1].close()
            extent = self._pieces[index]
            opened = (
                (self._layout / extent.file).open("rb", buffering=0)
                if extent.file
                else io.BytesIO(base64.b64decode(extent.literal))
            )
            self._open = index, cast("IO[bytes]", opened)
        return self._open[1]

"""Blobs that are no files of their own: a few bytes of ours and files of the cache, one after another.

The weights of a model seldom compress. Copied into a blob, they would lie on the disk twice.
"""

from __future__ import annotations

import base64
import io
import os
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, TYPE_CHECKING, cast

from builder.host import records
from builder.host.files import mark_used, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.image.oci.tarball import Content

# Where these are told of in a layout.
FOLDER = "pieces"
_READ_AHEAD = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """`size` bytes of a blob: those of `file`, a path as it is seen from the layout, or `literal` ones in base64."""

    size: int
    file: str | None = None
    literal: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class VirtualBlob:
    """What a blob consists of, in order."""

    pieces: tuple[Extent, ...]

    @property
    def size(self) -> int:
        """The blob's size in bytes."""
        return sum(piece.size for piece in self.pieces)


def place(layout: Path, digest: str) -> Path:
    """Return the file that tells what a blob consists of."""
    algorithm, _, value = digest.partition(":")
    return layout / FOLDER / algorithm / value


def write(layout: Path, digest: str, parts: Iterable[bytes | Content]) -> None:
    """Note of what a blob consists; the contents stay where they are.

    Raises:
        DiskError: it cannot be written.
    """
    made = tuple(_piece(part, layout) for part in parts)
    records.write(place(layout, digest), digest, VirtualBlob(pieces=made))


def read(layout: Path, digest: str) -> VirtualBlob | None:
    """Return what a blob consists of; None if that is not known, or a file has gone or is of another size."""
    found = records.read(place(layout, digest), digest, VirtualBlob)
    return found if found and all(_is_there(layout, piece) for piece in found.pieces) else None


def open_pieces(layout: Path, digest: str) -> IO[bytes]:
    """Open a blob in pieces for reading.

    Raises:
        FileNotFoundError: there is no such blob, or one of its files has gone.
    """
    found = read(layout, digest)
    if found is None:
        raise FileNotFoundError(f"{place(layout, digest)} is not there, or a file that it names is not")
    return cast("IO[bytes]", io.BufferedReader(_BlobReader(layout, found.pieces), _READ_AHEAD))


def mark_pieces_used(layout: Path, digest: str) -> None:
    """Note that a blob in pieces is in use, and the files that it consists of."""
    found = records.read(place(layout, digest), digest, VirtualBlob)
    for file in files_of(layout, found) if found else ():
        mark_used(file)
    mark_used(place(layout, digest))


def files_of(layout: Path, found: VirtualBlob) -> tuple[Path, ...]:
    """Return the files that a blob consists of."""
    return tuple(layout / piece.file for piece in found.pieces if piece.file)


def changed_file(layout: Path, digest: str) -> Path | None:
    """Return the first file of a blob whose content is no longer the one that it is named by."""
    found = records.read(place(layout, digest), digest, VirtualBlob)
    return next((file for file in files_of(layout, found) if sha256_of(file) != file.name), None) if found else None


def _piece(part: bytes | Content, layout: Path) -> Extent:
    if isinstance(part, bytes):
        return Extent(size=len(part), literal=base64.b64encode(part).decode())
    return Extent(size=part.size, file=os.path.relpath(part.path, layout))


def _is_there(layout: Path, piece: Extent) -> bool:
    if piece.file is None:
        return True
    try:
        return (layout / piece.file).stat().st_size == piece.size
    except OSError:
        return False


class _BlobReader(io.RawIOBase):
    """The pieces as one file."""

    def __init__(self, layout: Path, pieces: Sequence[Extent]) -> None:
        super().__init__()
        self._layout, self._pieces = layout, [piece for piece in pieces if piece.size]
        self._ends = list(accumulate(piece.size for piece in self._pieces))
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

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        index = bisect_right(self._ends, self._at)
        if index == len(self._pieces):
            return 0
        left = self._ends[index] - self._at
        inside = self._pieces[index].size - left
        file = self._file(index)
        file.seek(inside)
        got = file.readinto(memoryview(buffer)[:left])  # type: ignore[attr-defined]
        if not got:
            raise OSError(f"{self._pieces[index].file} became shorter while it was read")
        self._at += got
        return int(got)

    def close(self) -> None:
        if self._open:
            self._open[1].close()
            self._open = None
        super().close()

    def _file(self, index: int) -> IO[bytes]:
        if self._open is None or self._open[0] != index:
            if self._open:
                self._open[1].close()
            piece = self._pieces[index]
            opened = (
                (self._layout / piece.file).open("rb", buffering=0)
                if piece.file
                else io.BytesIO(base64.b64decode(piece.literal))
            )
            self._open = index, cast("IO[bytes]", opened)
        return self._open[1]

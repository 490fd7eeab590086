"""Reads the members of a wheel in the order of the zip: small ones whole, large ones in blocks."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

_HEADER = struct.Struct("<4s22xHH")
_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1
# Room for a name in the local header that is longer than the directory's.
_SLACK = 128
_INPUT, _OUTPUT = 256 << 10, 1 << 20


class ZipContent:
    """The open zip of a wheel; `zipfile` needs several times as long for small members."""

    def __init__(self, path: Path) -> None:
        """Name the file; entering the context opens it."""
        self._path = path

    def __enter__(self) -> Self:
        self._number = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._number)

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """Return a member's bytes.

        Raises:
            ValueError, RuntimeError, zipfile.BadZipFile, zlib.error: it cannot be read.
        """
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return b"".join(self.blocks(member))
        guess = _HEADER.size + len(member.filename.encode()) + len(member.extra) + _SLACK + member.compress_size
        raw = os.pread(self._number, guess, member.header_offset)
        start = self._start(member, raw)
        if len(raw) < start + member.compress_size:
            raw = os.pread(self._number, start + member.compress_size, member.header_offset)
        stored = memoryview(raw)[start : start + member.compress_size]
        data = (
            zlib.decompress(stored, -zlib.MAX_WBITS, max(1, member.file_size))
            if member.compress_type == zipfile.ZIP_DEFLATED
            else bytes(stored)
        )
        _check_size(member, len(data))
        return data

    def blocks(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield a member's bytes in blocks.

        Raises:
            ValueError, RuntimeError, zipfile.BadZipFile, zlib.error: it cannot be read.
        """
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield from self._foreign(member)
            return
        raw = os.pread(self._number, _HEADER.size, member.header_offset)
        at = member.header_offset + self._start(member, raw)
        size = 0
        for block in self._inflated(member, at):
            size += len(block)
            yield block
        _check_size(member, size)

    def check(self, member: zipfile.ZipInfo) -> None:
        """Compare a member with its checksum in the zip.

        Raises:
            zipfile.BadZipFile: they differ.
        """
        checksum = 0
        for block in self.blocks(member):
            checksum = zlib.crc32(block, checksum)
        if checksum != member.CRC:
            raise zipfile.BadZipFile(f"bad CRC-32 for file {member.filename!r}")

    def _start(self, member: zipfile.ZipInfo, raw: bytes) -> int:
        """Return where a member's bytes begin, from its header."""
        if member.flag_bits & _ENCRYPTED:
            raise RuntimeError(f"{member.filename!r} is encrypted")
        if len(raw) < _HEADER.size:
            raise zipfile.BadZipFile(f"{member.filename!r} is cut off")
        magic, name, extra = _HEADER.unpack_from(raw)
        if magic != _MAGIC:
            raise zipfile.BadZipFile(f"bad magic number for file {member.filename!r}")
        return _HEADER.size + int(name) + int(extra)

    def _inflated(self, member: zipfile.ZipInfo, at: int) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.compress_type == zipfile.ZIP_DEFLATED else None
        left = member.compress_size
        while left:
            raw = os.pread(self._number, min(left, _INPUT), at)
            if not raw:
                raise zipfile.BadZipFile(f"{member.filename!r} is cut off")
            at += len(raw)
            left -= len(raw)
            while inflater and raw:
                yield inflater.decompress(raw, _OUTPUT)
                raw = b"" if inflater.eof else inflater.unconsumed_tail
            if not inflater:
                yield raw
        if inflater:
            yield inflater.flush()

    def _foreign(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        with zipfile.ZipFile(self._path) as archive, archive.open(member) as file:
            while block := file.read(_OUTPUT):
                yield block


def _check_size(member: zipfile.ZipInfo, size: int) -> None:
    if size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename!r} has {size} bytes, not {member.file_size}")

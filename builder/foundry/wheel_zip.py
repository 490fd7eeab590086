"""Writes the zip of a wheel: members of another wheel with their compressed bytes as they are, and new ones.

`zipfile` cannot copy a member without compressing it again.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import IO, TYPE_CHECKING, NamedTuple

from builder.audit.byte_source import MalformedError

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.audit.byte_source import ByteSource

# Deflate's level: others are part of the writer's version.
_LEVEL = 6
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR_64 = struct.Struct("<4sIQI")
_STORED, _DEFLATED = 0, 8
_UTF8 = 0x800
_MOST_32, _MOST_16 = 0xFFFFFFFF, 0xFFFF
_VERSION, _VERSION_64, _UNIX = 20, 45, 3 << 8
_BLOCK = 1 << 20


class ZipMember(NamedTuple):
    """A member to write: its name, attributes and time, and its compressed bytes."""

    name: str
    method: int
    crc: int
    stored: int
    size: int
    time: int
    date: int
    attributes: int


class Deflation(NamedTuple):
    """Bytes that were compressed into a file: their checksum, sizes and hash."""

    crc: int
    stored: int
    size: int
    sha256: bytes


def deflate(blocks: Iterable[bytes], target: IO[bytes]) -> Deflation:
    """Compress blocks into a file."""
    compressor, digest = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS), hashlib.sha256()
    crc = stored = size = 0
    for block in blocks:
        crc, size = zlib.crc32(block, crc), size + len(block)
        digest.update(block)
        stored += target.write(compressor.compress(block))
    stored += target.write(compressor.flush())
    return Deflation(crc, stored, size, digest.digest())


def member_of(entry: zipfile.ZipInfo, name: str, deflation: Deflation | None = None) -> ZipMember:
    """Return a member with the time and the attributes of another wheel's; `deflation` is its new content."""
    year, month, day, hour, minute, second = entry.date_time
    return ZipMember(
        name=name,
        method=_DEFLATED if deflation else entry.compress_type,
        crc=deflation.crc if deflation else entry.CRC,
        stored=deflation.stored if deflation else entry.compress_size,
        size=deflation.size if deflation else entry.file_size,
        time=hour << 11 | minute << 5 | second // 2,
        date=max(0, year - 1980) << 9 | month << 5 | day,
        attributes=entry.external_attr,
    )


class WheelWriter:
    """Writes members one after the other, and the directory at the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self._directory: list[tuple[ZipMember, int]] = []

    def add(self, member: ZipMember, stored: Iterable[bytes]) -> None:
        """Write a member and its compressed bytes.

        Raises:
            MalformedError: their number is not the member's.
        """
        name = member.name.encode()
        extra = _extra(member.size, member.stored) if max(member.size, member.stored) >= _MOST_32 else b""
        sizes = (_MOST_32, _MOST_32) if extra else (member.stored, member.size)
        fields = (_VERSION_64 if extra else _VERSION, _flags(name), member.method, member.time, member.date, member.crc)
        self._directory.append((member, self._at))
        self._write(_LOCAL.pack(b"PK\x03\x04", *fields, *sizes, len(name), len(extra)) + name + extra)
        start = self._at
        for block in stored:
            self._write(block)
        if self._at - start != member.stored:
            raise MalformedError("a member of the zip has another size than its directory states", where=member.name)

    def close(self) -> None:
        """Write the directory."""
        start = self._at
        for member, offset in self._directory:
            self._write(_central(member, offset))
        size, count = self._at - start, len(self._directory)
        if start >= _MOST_32 or count >= _MOST_16 or size >= _MOST_32:
            record = self._at
            self._write(
                _END_64.pack(b"PK\x06\x06", 44, _VERSION_64, _VERSION_64, 0, 0, count, count, size, start)
                + _LOCATOR_64.pack(b"PK\x06\x07", 0, record, 1)
            )
        counts = (min(count, _MOST_16),) * 2
        self._write(_END.pack(b"PK\x05\x06", 0, 0, *counts, min(size, _MOST_32), min(start, _MOST_32), 0))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._at += len(data)


def _central(member: ZipMember, offset: int) -> bytes:
    name = member.name.encode()
    large = [value for value in (member.size, member.stored, offset) if value >= _MOST_32]
    extra = _extra(*large) if large else b""
    version = _VERSION_64 if extra else _VERSION
    fields = (_UNIX | version, version, _flags(name), member.method, member.time, member.date, member.crc)
    sizes = (min(member.stored, _MOST_32), min(member.size, _MOST_32), len(name), len(extra))
    rest = (0, 0, 0, member.attributes, min(offset, _MOST_32))
    return _CENTRAL.pack(b"PK\x01\x02", *fields, *sizes, *rest) + name + extra


def _extra(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def _flags(name: bytes) -> int:
    return 0 if name.isascii() else _UTF8


def file_blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def crc32_of(source: ByteSource) -> int:
    """Return the checksum of all bytes of a source, as zips have it.

    Raises:
        MalformedError: it is cut off.
    """
    crc = 0
    for block in source_blocks(source):
        crc = zlib.crc32(block, crc)
    return crc


def source_blocks(source: ByteSource) -> Iterator[bytes]:
    """Yield all bytes of a source.

    Raises:
        MalformedError: it is cut off.
    """
    for start in range(0, source.size, _BLOCK):
        yield source.read(start, min(_BLOCK, source.size - start))

"""Reads a wheel's zip without unpacking it, and without trusting it."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from typing import TYPE_CHECKING, NamedTuple

from builder.audit.byte_source import Deflated, MalformedError, SourceRange

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.audit.byte_source import ByteSource

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_MEMBERS = 1_000_000
_LARGEST_MEMBER = 8 << 30
# Inflating takes the time: no wheel may inflate to more than this (bytes), some two minutes.
_LARGEST_WHEEL = 32 << 30
_LONGEST_METADATA = 16 << 20
# Deflate cannot do better than 1032 to 1.
_BEST_RATIO = 1040
_DATA = re.compile(r"[^/]+\.data/(purelib|platlib|data|scripts|headers)/(.+)")
# The folders of an installed wheel's schemes, relative to site-packages.
_SCHEMES = {
    "purelib": "",
    "platlib": "",
    "data": "../../../",
    "scripts": "../../../bin/",
    "headers": "../../../include/",
}


class Member(NamedTuple):
    """A file of a wheel: its name in the zip, its installed path (from site-packages), and its bytes' position."""

    name: str
    path: str
    offset: int
    stored: int
    size: int
    crc: int
    method: int


class WheelMembers(NamedTuple):
    """The files of a wheel, and the flaws of the others."""

    members: tuple[Member, ...]
    flaws: tuple[tuple[str, str], ...]


def listing(wheel: Path) -> WheelMembers:
    """Return the files of a wheel; files that no installer should unpack become flaws, (name, reason).

    Raises:
        MalformedError: it is not a zip, or its directory cannot be read.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, struct.error) as error:
        raise MalformedError(f"not a zip that can be read: {error}", where=wheel.name) from error
    if len(entries) > _MOST_MEMBERS:
        raise MalformedError(f"holds {len(entries)} files", where=wheel.name)
    members: dict[str, Member] = {}
    flaws: list[tuple[str, str]] = []
    total = 0
    for entry in entries:
        if entry.filename.endswith("/"):
            continue
        member = _member(entry)
        if (flaw := _flaw(entry)) or member.name in members:
            flaws.append((member.name, flaw or "is in the wheel twice"))
        total += member.size
        if total > _LARGEST_WHEEL:
            raise MalformedError(f"holds more than {_LARGEST_WHEEL} bytes", where=wheel.name)
        if not flaw:
            members[member.name] = member
    return WheelMembers(tuple(members.values()), tuple(flaws))


def _member(entry: zipfile.ZipInfo) -> Member:
    return Member(
        name=entry.filename,
        path=installed(entry.filename),
        offset=entry.header_offset,
        stored=entry.compress_size,
        size=entry.file_size,
        crc=entry.CRC,
        method=entry.compress_type,
    )


def installed(name: str) -> str:
    """Return the installed path of a file of a wheel, from site-packages."""
    match = _DATA.fullmatch(name)
    return _SCHEMES[match[1]] + match[2] if match else name


def _flaw(entry: zipfile.ZipInfo) -> str | None:
    name, size, stored = entry.filename, entry.file_size, entry.compress_size
    checks = (
        (not name, "has no name"),
        (name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name), "has an absolute path"),
        (".." in name.replace("\\", "/").split("/"), "reaches outside the environment"),
        (stat.S_ISLNK(entry.external_attr >> 16), "is a symbolic link, which installers unpack as a file"),
        (entry.flag_bits & _ENCRYPTED, "is encrypted"),
        (entry.compress_type not in _METHODS, f"is compressed by method {entry.compress_type}, unknown to wheels"),
        (size > _LARGEST_MEMBER, f"claims {size} bytes"),
        (size > (stored + 1) * _BEST_RATIO, f"claims {size} bytes, which its {stored} cannot hold"),
    )
    return next((text for wrong, text in checks if wrong), None)


def source(data: ByteSource, member: Member) -> ByteSource:
    """Return a member's bytes, inflated on demand.

    Raises:
        MalformedError: the member is not at the directory's offset.
    """
    stored = stored_source(data, member)
    return Deflated(stored, member.size) if member.method == zipfile.ZIP_DEFLATED else stored


def stored_source(data: ByteSource, member: Member) -> ByteSource:
    """Return a member's bytes as they are in the zip.

    Raises:
        MalformedError: the member is not at the directory's offset.
    """
    magic, name, extra = _LOCAL_HEADER.unpack(data.read(member.offset, _LOCAL_HEADER.size))
    if magic != b"PK\x03\x04":
        raise MalformedError("the zip's directory points at something other than a member")
    start = member.offset + _LOCAL_HEADER.size + name + extra
    return SourceRange(data, start, member.stored)


def head(data: ByteSource, member: Member, size: int) -> bytes:
    """Return the first bytes of a member, or fewer if it is shorter.

    Raises:
        MalformedError: they cannot be read.
    """
    content = source(data, member)
    if isinstance(content, Deflated):
        return content.head(size)
    return content.read(0, min(size, content.size))


def metadata(data: ByteSource, members: Iterable[Member], name: str) -> str:
    """Return a text of a wheel's `.dist-info`, or an empty one.

    Raises:
        MalformedError: it cannot be read.
    """
    for member in members:
        folder, _, file = member.name.partition("/")
        if file == name and folder.endswith(".dist-info") and member.size <= _LONGEST_METADATA:
            return source(data, member).read(0, member.size).decode("utf-8", "replace")
    return ""

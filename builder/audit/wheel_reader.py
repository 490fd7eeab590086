"""Looks into a wheel's zip without unpacking it, and without believing it."""

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
# Inflating is what takes time: no wheel may make us inflate more than this (bytes), two minutes' worth.
_LARGEST_WHEEL = 32 << 30
_LONGEST_METADATA = 16 << 20
# Deflate cannot do better than 1032 to 1.
_BEST_RATIO = 1040
_DATA = re.compile(r"[^/]+\.data/(purelib|platlib|data|scripts|headers)/(.+)")
# Where an installer puts the parts of a wheel, seen from site-packages.
_SCHEMES = {
    "purelib": "",
    "platlib": "",
    "data": "../../../",
    "scripts": "../../../bin/",
    "headers": "../../../include/",
}


class Member(NamedTuple):
    """A file of a wheel: its name in the zip, where it is installed (from site-packages), and where its bytes lie."""

    name: str
    path: str
    offset: int
    stored: int
    size: int
    crc: int
    method: int


class WheelMembers(NamedTuple):
    """The files of a wheel, and what is wrong with the others."""

    members: tuple[Member, ...]
    flaws: tuple[tuple[str, str], ...]


def listing(wheel: Path) -> WheelMembers:
    """Return the files of a wheel; those that no installer should unpack are told as flaws, (name, what is wrong).

    Raises:
        MalformedError: it is no zip, or has no directory that can be read.
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
    whole = 0
    for entry in entries:
        if entry.filename.endswith("/"):
            continue
        member = _member(entry)
        if (flaw := _flaw(entry)) or member.name in members:
            flaws.append((member.name, flaw or "is in the wheel twice"))
        whole += member.size
        if whole > _LARGEST_WHEEL:
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
    """Return where a file of a wheel is installed, seen from site-packages."""
    found = _DATA.fullmatch(name)
    return _SCHEMES[found[1]] + found[2] if found else name


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
    """Return a member's bytes, inflated where they are asked for.

    Raises:
        MalformedError: the member is not where the directory says.
    """
    magic, name, extra = _LOCAL_HEADER.unpack(data.read(member.offset, _LOCAL_HEADER.size))
    if magic != b"PK\x03\x04":
        raise MalformedError("the zip's directory points at something that is no member")
    start = member.offset + _LOCAL_HEADER.size + name + extra
    stored = SourceRange(data, start, member.stored)
    return Deflated(stored, member.size) if member.method == zipfile.ZIP_DEFLATED else stored


def head(data: ByteSource, member: Member, size: int) -> bytes:
    """Return the first bytes of a member, or fewer if it is shorter.

    Raises:
        MalformedError: they cannot be read.
    """
    found = source(data, member)
    if isinstance(found, Deflated):
        return found.head(size)
    return found.read(0, min(size, found.size))


def metadata(data: ByteSource, members: Iterable[Member], name: str) -> str:
    """Return a text of a wheel's `.dist-info`, or nothing where there is none.

    Raises:
        MalformedError: it cannot be read.
    """
    for member in members:
        folder, _, file = member.name.partition("/")
        if file == name and folder.endswith(".dist-info") and member.size <= _LONGEST_METADATA:
            return source(data, member).read(0, member.size).decode("utf-8", "replace")
    return ""

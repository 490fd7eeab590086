"""The smallest arm64 shared object that tells which symbol version of the C library it needs. It holds no code."""

from __future__ import annotations

import struct

_AARCH64 = 183
_STRTAB, _DYNAMIC, _VERNEED = 3, 6, 0x6FFFFFFE
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_VERNEED, _DT_VERNEEDNUM = 1, 5, 10, 14, 0x6FFFFFFE, 0x6FFFFFFF
_LIBRARY = "libc.so.6"


def shared_object(name: str, needs: str) -> bytes:
    """Return an ELF file with soname `name` that needs version `needs` (`GLIBC_2.38`) of libc.so.6."""
    strings, at = _strings(_LIBRARY, name, needs)
    names, named = _strings(".dynstr", ".gnu.version_r", ".dynamic", ".shstrtab")
    version = struct.pack("<HHIII", 1, 1, at[_LIBRARY], 16, 0) + struct.pack(
        "<IHHII", _elf_hash(needs), 0, 2, at[needs], 0
    )
    begin = 64 + 2 * 56
    versions_at = begin + len(strings)
    dynamic_at = versions_at + len(version)
    entries = (
        *((_DT_NEEDED, at[_LIBRARY]), (_DT_SONAME, at[name]), (_DT_STRTAB, begin), (_DT_STRSZ, len(strings))),
        *((_DT_VERNEED, versions_at), (_DT_VERNEEDNUM, 1), (0, 0)),
    )
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    names_at = dynamic_at + len(dynamic)
    sections_at = names_at + len(names)
    sections = (
        bytes(64),
        _section(named[".dynstr"], _STRTAB, begin, len(strings)),
        _section(named[".gnu.version_r"], _VERNEED, versions_at, len(version), link=1, info=1),
        _section(named[".dynamic"], _DYNAMIC, dynamic_at, len(dynamic), link=1, entry=16),
        _section(named[".shstrtab"], _STRTAB, names_at, len(names)),
    )
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 3, _AARCH64, 1, 0, 64, sections_at, 0, 64, 56, 2, 64, len(sections), 4)
    segments = _segment(1, 0, sections_at) + _segment(2, dynamic_at, len(dynamic))
    return b"".join((identity, header, segments, strings, version, dynamic, names, *sections))


def _strings(*texts: str) -> tuple[bytes, dict[str, int]]:
    """Return a string table, padded to eight bytes, and where each text begins in it."""
    table, at = b"\0", {}
    for text in texts:
        at[text] = len(table)
        table += text.encode() + b"\0"
    return table + bytes(-len(table) % 8), at


def _section(name: int, kind: int, at: int, size: int, *, link: int = 0, info: int = 0, entry: int = 0) -> bytes:
    return struct.pack("<IIQQQQIIQQ", name, kind, 2, at, at, size, link, info, 8, entry)


def _segment(kind: int, at: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, 6, at, at, at, size, size, 8)


def _elf_hash(text: str) -> int:
    """Return the hash of a symbol version as the System V ABI defines it."""
    value = 0
    for byte in text.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value

"""Reads a cubin: an ELF file with SASS for one GPU."""

from __future__ import annotations

import struct
from typing import NamedTuple

from builder.audit.byte_source import MalformedError

# The machine of a cubin (EM_CUDA).
MACHINE = 190
SYMTAB, NOTE = 2, 7
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
# The byte of `e_ident` with the version of the ABI. From version 8 on, the SM is in the second byte of `e_flags`.
_ABI, _SM_IN_SECOND_BYTE = 8, 8
# `e_flags` of code for exactly one compute capability. Not all compilers set it.
_ACCELERATED = 0x8


class CubinSection(NamedTuple):
    """A section of a cubin: the position of its name among the names, its kind, its bytes, and its linked section."""

    label: int
    kind: int
    offset: int
    size: int
    link: int


class Cubin(NamedTuple):
    """The headers of a cubin; `names` is the number of the section with the names of sections."""

    payload: bytes
    abi: int
    flags: int
    sections: tuple[CubinSection, ...]
    names: int

    @property
    def sm(self) -> int:
        """The SM that it is for."""
        return (self.flags >> 8 if self.abi >= _SM_IN_SECOND_BYTE else self.flags) & 0xFF

    @property
    def is_accelerated(self) -> bool:
        """Whether its header states that it is for exactly one compute capability."""
        return self.abi >= _SM_IN_SECOND_BYTE and bool(self.flags & _ACCELERATED)

    def of_kind(self, kind: int) -> list[CubinSection]:
        """Return the sections of a kind."""
        return [section for section in self.sections if section.kind == kind]

    def linked(self, section: CubinSection) -> bytes:
        """Return the strings of a section of symbols.

        Raises:
            MalformedError: it is cut off.
        """
        if section.link >= len(self.sections):
            raise _cut_off()
        return self.content(self.sections[section.link])

    def content(self, section: CubinSection) -> bytes:
        """Return the bytes of a section.

        Raises:
            MalformedError: it is cut off.
        """
        if section.offset + section.size > len(self.payload):
            raise _cut_off()
        return self.payload[section.offset : section.offset + section.size]

    def named(self, name: bytes) -> bytes:
        """Return the bytes of the section with a name; without such a section, no bytes.

        Raises:
            MalformedError: it is cut off.
        """
        names = self.content(self.sections[self.names]) if self.names < len(self.sections) else b""
        for section in self.sections:
            if names[section.label :].partition(b"\0")[0] == name:
                return self.content(section)
        return b""


def read_cubin_headers(payload: bytes) -> Cubin:
    """Read the headers of a cubin.

    Raises:
        MalformedError: it is none, or cut off.
    """
    try:
        identity, _, machine, _, _, _, at, flags, _, _, _, size, count, names = _ELF_HEADER.unpack_from(payload)
        if not identity.startswith(b"\x7fELF\x02\x01") or machine != MACHINE or size != _SECTION.size:
            raise MalformedError("its GPU code is not a cubin")
        # The first section has the number of sections where `e_shnum` is too small for it.
        count = count or min(_SECTION.unpack_from(payload, at)[5], len(payload) // size)
        rows = (_SECTION.unpack_from(payload, at + index * size) for index in range(count))
        sections = tuple(CubinSection(row[0], row[1], row[4], row[5], row[6]) for row in rows)
    except (struct.error, OverflowError) as error:
        raise _cut_off() from error
    return Cubin(payload, identity[_ABI], flags, sections, names)


def _cut_off() -> MalformedError:
    return MalformedError("a cubin of its GPU code is cut off")

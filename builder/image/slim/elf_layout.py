"""The tables of an ELF file that change with the position of its bytes: headers, relocations, symbols."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from builder.audit.byte_source import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.byte_source import ByteSource

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELA = struct.Struct("<QQq")
WORD = struct.Struct("<Q")
LOAD, DYNAMIC, NOTE, PHDR, PROPERTY = 1, 2, 4, 6, 0x6474E553
NO_BITS, SYMTAB, DYNSYM = 8, 2, 11
_SHARED = 3
_MOST_PROGRAMS = 1024
_MOST_SECTIONS = 16_384
_MOST_DYNAMIC = 16_384
_LARGEST_TABLE = 1 << 30
_TABLE_BLOCK = 1 << 20


class Program(NamedTuple):
    """A program header."""

    type: int
    flags: int
    offset: int
    address: int
    physical: int
    in_file: int
    in_memory: int
    align: int


class SectionHeader(NamedTuple):
    """A section header, with its name."""

    name_at: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    step: int
    name: bytes = b""

    @property
    def in_file(self) -> int:
        """The bytes that it has in the file."""
        return 0 if self.type in {0, NO_BITS} else self.size


class ElfLayout(NamedTuple):
    """The headers of a shared library, and its dynamic table."""

    header: tuple[int, ...]
    programs: tuple[Program, ...]
    sections: tuple[SectionHeader, ...]
    tags: dict[int, int]

    @property
    def machine(self) -> int:
        """The processor, as `elf.h` numbers it."""
        return self.header[2]

    @property
    def programs_at(self) -> int:
        """The offset of the program headers."""
        return self.header[5]

    @property
    def sections_at(self) -> int:
        """The offset of the section headers."""
        return self.header[6]

    def segment_of(self, section: SectionHeader) -> Program | None:
        """Return the segment that loads all bytes of a section at the section's address."""
        for program in self.programs:
            after = section.offset - program.offset
            if program.type == LOAD and after >= 0 and after + section.size <= program.in_file <= program.in_memory:
                return program if section.address - program.address == after else None
        return None

    def offset_of(self, address: int, size: int) -> int:
        """Return the offset of bytes that a segment loads at an address.

        Raises:
            MalformedError: no segment has them.
        """
        for program in self.programs:
            if program.type == LOAD and program.address <= address <= program.address + program.in_file - size:
                return program.offset + address - program.address
        raise MalformedError(f"address {address:#x} is in no segment")


def read_layout(source: ByteSource) -> ElfLayout:
    """Read the headers of a 64-bit little-endian shared library with section headers.

    Raises:
        MalformedError: it is not one, or cut off.
    """
    fields = HEADER.unpack(source.read(0, min(HEADER.size, source.size)).ljust(HEADER.size, b"\0"))
    identity, kind, program_count, section_count, names_at = fields[0], fields[1], fields[10], fields[12], fields[13]
    if not identity.startswith(b"\x7fELF\x02\x01") or kind != _SHARED:
        raise MalformedError("not a 64-bit little-endian shared library")
    if fields[9] != PROGRAM.size or fields[11] != SECTION.size:
        raise MalformedError("its headers have an unknown size")
    if program_count > _MOST_PROGRAMS or not 0 < section_count <= _MOST_SECTIONS or names_at >= section_count:
        raise MalformedError("its headers are more than any library has, or missing")
    programs = tuple(Program(*row) for row in PROGRAM.iter_unpack(source.read(fields[5], program_count * PROGRAM.size)))
    rows = [SectionHeader(*row) for row in SECTION.iter_unpack(source.read(fields[6], section_count * SECTION.size))]
    names = source.read(rows[names_at].offset, min(rows[names_at].in_file, 16 << 20))
    sections = tuple(row._replace(name=_name(names, row.name_at)) for row in rows)
    ends = [program.offset + program.in_file for program in programs]
    ends += [section.offset + section.in_file for section in sections]
    if max(ends, default=0) > source.size:
        raise MalformedError("a segment or section reaches beyond its end")
    _check_apart([row for row in programs if row.type == LOAD])
    return ElfLayout(fields, programs, sections, _tags(source, programs))


def _check_apart(loads: Sequence[Program]) -> None:
    for first, second in pairwise(loads):
        if first.address + first.in_memory > second.address or first.offset + first.in_file > second.offset:
            raise MalformedError("its segments overlap or are not in the order of their addresses")


def _name(names: bytes, at: int) -> bytes:
    end = names.find(b"\0", at, at + 256)
    return names[at:end] if end >= 0 else b""


def _tags(source: ByteSource, programs: tuple[Program, ...]) -> dict[int, int]:
    tags: dict[int, int] = {}
    for program in programs:
        if program.type == DYNAMIC:
            count = min(program.in_file // 16, _MOST_DYNAMIC)
            for tag, value in struct.iter_unpack("<QQ", source.read(program.offset, count * 16)):
                if tag == 0:
                    break
                tags[tag] = value
    return tags


def rows(source: ByteSource, offset: int, size: int, row: struct.Struct) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the rows of a table with their offsets.

    Raises:
        MalformedError: it is cut off or too large.
    """
    if size > _LARGEST_TABLE:
        raise MalformedError("a table is larger than any library has")
    end = offset + size - size % row.size
    while offset < end:
        length = min(_TABLE_BLOCK // row.size * row.size, end - offset)
        for values in row.iter_unpack(source.read(offset, length)):
            yield offset, values
            offset += row.size

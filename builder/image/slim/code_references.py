"""The pointers of a library into its section of GPU code.

The CUDA compiler writes one wrapper a container into `.nvFatBinSegment`, and the program registers the wrapper. Its
pointer is a relocation against the library's own address. Where every container has exactly one such pointer and
nothing else points into the section, containers can move.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from builder.image.slim import elf_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.byte_source import ByteSource
    from builder.image.slim.elf_layout import ElfLayout, SectionHeader

WRAPPERS = b".nvFatBinSegment"
_WRAPPER = struct.Struct("<IIQQ")
_WRAPPER_MAGIC = 0x466243B1
_POINTER = 8
_DT_RELA, _DT_RELASZ, _DT_REL, _DT_JMPREL, _DT_PLTRELSZ, _DT_RELR, _DT_RELRSZ = 7, 8, 17, 23, 2, 36, 35
# By machine: the relocations whose addend is an address of the library (RELATIVE, IRELATIVE).
_OWN_ADDRESS = {62: (8, 37), 183: (1027, 1032)}
_RELATIVE = {62: 8, 183: 1027}
_BITS = 63


class CodeReference(NamedTuple):
    """A pointer to an address: where it is in the file, and the addend of its relocation (None: the pointer is it)."""

    target: int
    pointer: int
    addend: int | None
    movable: bool


class Movability(NamedTuple):
    """The pointers to containers by their addresses, or the reason why the containers cannot move."""

    pointers: dict[int, CodeReference]
    obstacle: str | None


def movability(source: ByteSource, layout: ElfLayout, section: SectionHeader, starts: Sequence[int]) -> Movability:
    """Return the pointers to the containers that start at some addresses.

    Raises:
        MalformedError: a table is cut off.
    """
    if layout.machine not in _OWN_ADDRESS or _DT_REL in layout.tags:
        return Movability({}, "its relocations are of a kind that jbuild does not move")
    if not all(layout.segment_of(row) for row in layout.sections if row.name == WRAPPERS and row.in_file):
        return Movability({}, "its wrappers are not loaded where their section states")
    pointers: dict[int, CodeReference] = {}
    wrapped, expected = set(_wrapped(source, layout)), set(starts)
    for reference in _references(source, layout, section.address, section.address + section.size):
        if not reference.movable or reference.pointer not in wrapped or reference.target not in expected:
            return Movability({}, "something besides the CUDA runtime's wrappers points into its GPU code")
        if reference.target in pointers:
            return Movability({}, "several pointers name one container of its GPU code")
        pointers[reference.target] = reference
    if len(pointers) != len(expected):
        return Movability({}, "a container of its GPU code has no pointer")
    return Movability(pointers, None)


def _wrapped(source: ByteSource, layout: ElfLayout) -> Iterator[int]:
    """Yield the offsets of the pointers of wrappers."""
    for section in layout.sections:
        if section.name == WRAPPERS and section.in_file:
            for offset, (magic, *_) in elf_layout.rows(source, section.offset, section.size, _WRAPPER):
                if magic == _WRAPPER_MAGIC:
                    yield offset + _POINTER


def _references(source: ByteSource, layout: ElfLayout, start: int, stop: int) -> Iterator[CodeReference]:
    yield from _from_symbols(source, layout, start, stop)
    tags = layout.tags
    for table, size in ((_DT_RELA, _DT_RELASZ), (_DT_JMPREL, _DT_PLTRELSZ)):
        if tags.get(table) and tags.get(size):
            at = layout.offset_of(tags[table], tags[size])
            yield from _from_addends(source, layout, at, tags[size], (start, stop))
    if tags.get(_DT_RELR) and tags.get(_DT_RELRSZ):
        at = layout.offset_of(tags[_DT_RELR], tags[_DT_RELRSZ])
        yield from _from_packed(source, layout, at, tags[_DT_RELRSZ], (start, stop))


def _from_symbols(source: ByteSource, layout: ElfLayout, start: int, stop: int) -> Iterator[CodeReference]:
    """Yield dynamic symbols in the section: other libraries may bind to them."""
    for section in layout.sections:
        if section.type == elf_layout.DYNSYM:
            for offset, (_, _, _, index, value, _) in elf_layout.rows(
                source, section.offset, section.in_file, elf_layout.SYMBOL
            ):
                if index and start <= value < stop:
                    yield CodeReference(value, offset, None, movable=False)


def _from_addends(
    source: ByteSource, layout: ElfLayout, at: int, size: int, bounds: tuple[int, int]
) -> Iterator[CodeReference]:
    start, stop = bounds
    own, relative = _OWN_ADDRESS[layout.machine], _RELATIVE[layout.machine]
    for offset, (location, info, addend) in elf_layout.rows(source, at, size, elf_layout.RELA):
        if start <= addend < stop:
            kind = info & 0xFFFFFFFF
            if kind in own:
                yield CodeReference(addend, layout.offset_of(location, 8), offset + 16, movable=kind == relative)
            elif info >> 32:
                # An offset from a symbol: no symbol is so far from its object, so this is an address in disguise.
                yield CodeReference(addend, offset, None, movable=False)


def _from_packed(
    source: ByteSource, layout: ElfLayout, at: int, size: int, bounds: tuple[int, int]
) -> Iterator[CodeReference]:
    start, stop = bounds
    for location in _packed_locations(source, at, size):
        offset = layout.offset_of(location, 8)
        (target,) = elf_layout.WORD.unpack(source.read(offset, 8))
        if start <= target < stop:
            yield CodeReference(target, offset, None, movable=True)


def _packed_locations(source: ByteSource, at: int, size: int) -> Iterator[int]:
    """Yield the addresses of RELR: an even word is an address, an odd one a bitmap of the 63 words that follow."""
    base = 0
    for _, (word,) in elf_layout.rows(source, at, size, elf_layout.WORD):
        if word & 1:
            yield from (base + 8 * bit for bit in range(_BITS) if word >> (bit + 1) & 1)
            base += 8 * _BITS
        else:
            yield word
            base = word + 8

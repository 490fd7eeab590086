"""Takes pages out of the middle of a library's file: the segment that has them is split in two.

Addresses stay. The file's bytes after the removed ones move to the front by a multiple of the segments' alignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from builder.audit.byte_source import MalformedError
from builder.image.slim import elf_layout
from builder.image.slim.elf_layout import LOAD, NOTE, PHDR, PROGRAM, PROPERTY, SECTION, Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.byte_source import ByteSource
    from builder.image.slim.elf_layout import ElfLayout, SectionHeader

_LEAST_PAGE = 0x1000
_LARGEST_ALIGN = 1 << 24
_READABLE = 4
# The linker and patchelf fill unused bytes with one value.
_FILLERS = (b"\0", b"X", b"Z")


class NewSegment(NamedTuple):
    """Where a section begins at the end of the file, and the tables that then differ, by their offsets."""

    offset: int
    address: int
    patches: dict[int, bytes]


class Cut(NamedTuple):
    """Bytes to take out of the file, and the tables that then differ, by their offsets."""

    start: int
    stop: int
    patches: dict[int, bytes]


def cut_after(source: ByteSource, layout: ElfLayout, section: SectionHeader, size: int) -> Cut | str:
    """Return the cut that leaves the first bytes of a section, or the reason why nothing can be cut.

    Raises:
        MalformedError: the headers contradict each other.
    """
    loads = [program for program in layout.programs if program.type == LOAD]
    segment = layout.segment_of(section)
    if segment is None:
        return "no segment has its GPU code"
    align = max(_LEAST_PAGE, *(program.align for program in loads))
    if align & (align - 1) or align > _LARGEST_ALIGN or (segment.offset - segment.address) % align:
        return "its segments have an unusual alignment"
    end = section.offset + section.size
    # Offsets and addresses are equal modulo the alignment.
    shift = (section.address - section.offset) % align
    start = section.offset + size
    start += -(start + shift) % align
    stop = end - (end + shift) % align
    if stop <= start:
        return "its unused GPU code has less than a page"
    if _is_used(layout, section, segment, start, stop):
        return "other tables are inside its GPU code"
    programs = _table(source, layout, segment, section.address + size, start, stop)
    if programs is None:
        return "its header has no room for another segment"
    header = list(layout.header)
    header[6] -= stop - start if header[6] >= stop else 0
    header[10] = len(programs)
    sections = [_section(row, section, size, start, stop) for row in layout.sections]
    patches = {
        0: elf_layout.HEADER.pack(*header),
        layout.programs_at: b"".join(PROGRAM.pack(*program) for program in programs),
        layout.sections_at: b"".join(sections),
    }
    return Cut(start, stop, patches)


def appended_segment(source: ByteSource, layout: ElfLayout, section: SectionHeader, size: int) -> NewSegment | str:
    """Return a segment at the end of the file for `size` bytes of a section, or the reason why there cannot be one.

    Raises:
        MalformedError: the headers contradict each other.
    """
    loads = [program for program in layout.programs if program.type == LOAD]
    align = max(_LEAST_PAGE, *(program.align for program in loads))
    if align & (align - 1) or align > _LARGEST_ALIGN:
        return "its segments have an unusual alignment"
    end = max(program.address + program.in_memory for program in loads)
    offset, address = source.size + -source.size % align, end + -end % align
    segment = layout.segment_of(section)
    flags = segment.flags if segment else _READABLE
    new = Program(LOAD, flags, offset, address, address, size, size, align)
    last = max(index for index, program in enumerate(layout.programs) if program.type == LOAD)
    programs = _with_room(source, layout, [*layout.programs[: last + 1], new, *layout.programs[last + 1 :]])
    if programs is None:
        return "its header has no room for another segment"
    header = list(layout.header)
    header[10] = len(programs)
    rows = (
        row._replace(address=address, offset=offset, size=size) if row is section else row for row in layout.sections
    )
    patches = {
        0: elf_layout.HEADER.pack(*header),
        layout.programs_at: b"".join(PROGRAM.pack(*program) for program in programs),
        layout.sections_at: b"".join(SECTION.pack(*row[:-1]) for row in rows),
    }
    return NewSegment(offset, address, patches)


def _is_used(layout: ElfLayout, section: SectionHeader, segment: Program, start: int, stop: int) -> bool:
    """Return whether anything but the section and its segment has bytes between two offsets."""
    ranges = [(row.offset, row.in_file) for row in layout.sections if row is not section]
    ranges += [(program.offset, program.in_file) for program in layout.programs if program is not segment]
    ranges += [(layout.programs_at, len(layout.programs) * PROGRAM.size)]
    ranges += [(layout.sections_at, len(layout.sections) * SECTION.size), (0, elf_layout.HEADER.size)]
    return any(size and offset < stop and offset + size > start for offset, size in ranges)


def _section(row: SectionHeader, section: SectionHeader, size: int, start: int, stop: int) -> bytes:
    row = row._replace(size=size) if row is section else row._replace(offset=_moved(row.offset, start, stop))
    return SECTION.pack(*row[:-1])


def _moved(offset: int, start: int, stop: int) -> int:
    """Return the new offset; one between the two belongs to something without bytes."""
    return max(start, offset - (stop - start)) if offset > start else offset


def _table(
    source: ByteSource, layout: ElfLayout, segment: Program, kept_end: int, start: int, stop: int
) -> list[Program] | None:
    """Return the program headers with the segment in two, or None if the table cannot have one more."""
    return _with_room(source, layout, list(_split(layout.programs, segment, kept_end, start, stop)))


def _with_room(source: ByteSource, layout: ElfLayout, programs: list[Program]) -> list[Program] | None:
    """Return program headers that may be one more than the library has, without the expendable one if need be."""
    room = len(layout.programs)
    if _can_grow(source, layout):
        room += 1
    elif note := _expendable(layout.programs):
        programs = [program for program in programs if program.type != NOTE or program.address != note.address]
    if len(programs) > room:
        return None
    size = len(programs) * PROGRAM.size
    return [row._replace(in_file=size, in_memory=size) if row.type == PHDR else row for row in programs]


def _split(programs: Sequence[Program], segment: Program, kept_end: int, start: int, stop: int) -> Iterator[Program]:
    removed = stop - start
    for program in programs:
        if program is segment:
            size = kept_end - segment.address
            yield segment._replace(in_file=size, in_memory=size)
            skipped = stop - segment.offset
            yield segment._replace(
                offset=stop - removed,
                address=segment.address + skipped,
                physical=segment.physical + skipped,
                in_file=segment.in_file - skipped,
                in_memory=segment.in_memory - skipped,
            )
        else:
            yield program._replace(offset=_moved(program.offset, start, stop))


def _can_grow(source: ByteSource, layout: ElfLayout) -> bool:
    """Return whether unused bytes follow the program headers in their segment."""
    end = layout.programs_at + len(layout.programs) * PROGRAM.size
    new_end = end + PROGRAM.size
    used = [(row.offset, row.in_file) for row in layout.sections]
    used += [(row.offset, row.in_file) for row in layout.programs if row.type not in {LOAD, PHDR}]
    used += [(layout.sections_at, len(layout.sections) * SECTION.size)]
    if any(size and offset < new_end and offset + size > end for offset, size in used):
        return False
    loads = [row for row in layout.programs if row.type == LOAD]
    if not any(row.offset <= layout.programs_at and new_end <= row.offset + row.in_file for row in loads):
        return False
    try:
        filler = source.read(end, PROGRAM.size)
    except MalformedError:
        return False
    return filler in {byte * PROGRAM.size for byte in _FILLERS}


def _expendable(programs: Sequence[Program]) -> Program | None:
    """Return the header of the note that only describes the build: tools look it up by its section."""
    needed = {program.offset for program in programs if program.type == PROPERTY}
    notes = [program for program in programs if program.type == NOTE and program.offset not in needed]
    return notes[-1] if notes else None

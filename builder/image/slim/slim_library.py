"""Takes the code for other GPUs out of one library.

Entries that stay have the same bytes as before. Where the library allows it, containers move together and the file
becomes shorter; else they stay where they are, and zeros replace what went.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import fatbin, kernel_names
from builder.audit.byte_source import MalformedError
from builder.image.slim import byte_plan, elf_layout
from builder.image.slim.byte_plan import Copy, Region, Zeros
from builder.image.slim.code_references import movability
from builder.image.slim.container_writer import container_head, head_of
from builder.image.slim.entry_choice import retained_entries
from builder.image.slim.segment_split import appended_segment, cut_after
from builder.model.slimming import CodeAmount, SlimmedLibrary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.audit.byte_source import ByteSource
    from builder.audit.fatbin import Code, Container, Entry
    from builder.audit.slim_tables import SlimUnit
    from builder.image.slim.byte_plan import Chunk
    from builder.image.slim.code_references import Movability
    from builder.image.slim.elf_layout import ElfLayout, SectionHeader
    from builder.image.slim.entry_choice import AddedEntry
    from builder.model.slimming import SlimMethod, SlimRules

_LARGEST_ALIGN = 4096


class SlimmedContainer(NamedTuple):
    """A container, its entries that stay, and those that are added."""

    container: Container
    head: bytes
    entries: tuple[Entry, ...]
    added: tuple[AddedEntry, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of the new container."""
        retained = sum(entry.header + entry.size for entry in self.entries)
        return len(self.head) + retained + sum(len(entry.data) for entry in self.added)

    @property
    def room(self) -> int:
        """The bytes of the old container."""
        return self.container.header + self.container.size

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The new container."""
        size = self.size - len(self.head)
        copies = (Copy(entry.offset, entry.header + entry.size) for entry in self.entries)
        return (container_head(self.head, size), *copies, *(entry.data for entry in self.added))

    @property
    def is_changed(self) -> bool:
        """Whether entries went or came."""
        return bool(self.added) or len(self.entries) < len(self.container.entries)


class SlimLibrary(NamedTuple):
    """A library without the code for other GPUs: its report, and its bytes as parts of the original."""

    report: SlimmedLibrary
    chunks: tuple[Chunk, ...]

    def blocks(self, source: ByteSource) -> Iterator[bytes]:
        """Yield the bytes of the library; `source` is the original.

        Raises:
            MalformedError: the source is cut off.
        """
        return byte_plan.blocks(source, self.chunks)


class _Outcome(NamedTuple):
    regions: tuple[Region, ...]
    patches: dict[int, bytes]
    note: str | None


class NoRoomError(Exception):
    """Added code does not fit into a library; the text is the reason."""


def slim_library(
    source: ByteSource,
    path: str,
    rules: SlimRules,
    sections: Mapping[str, SlimUnit] | None = None,
    added: Mapping[int, Sequence[AddedEntry]] = MappingProxyType({}),
) -> SlimLibrary:
    """Return a library without the code for other GPUs; `sections` are further ones with code, slimmed in place.

    `added` are entries for containers, by their number in the library. Where they have no room, none is added, and a
    note says why.

    Raises:
        MalformedError: it is not a library, or its GPU code is malformed.
    """
    try:
        return _slimmed_library(source, path, rules, sections or {}, added)
    except NoRoomError as error:
        library = _slimmed_library(source, path, rules, sections or {}, {})
        note = f"compiled code has no room: {error}"
        return library._replace(report=replace(library.report, note=note))


def _slimmed_library(
    source: ByteSource,
    path: str,
    rules: SlimRules,
    sections: Mapping[str, SlimUnit],
    added: Mapping[int, Sequence[AddedEntry]],
) -> SlimLibrary:
    layout = elf_layout.read_layout(source)
    slimmed: list[SlimmedContainer] = []
    outcomes: list[_Outcome] = []
    own_containers = 0
    for section in layout.sections:
        own = section.name in fatbin.SECTIONS
        unit = "entry" if own else sections.get(section.name.decode("utf-8", "replace"))
        if section.in_file and unit:
            if layout.segment_of(section) is None:
                raise MalformedError("its GPU code is not loaded where its section states")
            entries = {number - own_containers: tuple(rows) for number, rows in added.items()} if own else {}
            containers = list(_slimmed(source, section, rules, unit, entries))
            own_containers += len(containers) if own else 0
            slimmed += containers
            if any(container.is_changed for container in containers):
                outcomes.append(_compacted(source, layout, section, containers) if own else _in_place(containers, None))
    regions = [region for outcome in outcomes for region in outcome.regions]
    patches = {at: patch for outcome in outcomes for at, patch in outcome.patches.items()}
    note = next((outcome.note for outcome in outcomes if outcome.note), None)
    chunks = byte_plan.arranged(source.size, regions, patches)
    after = sum(map(byte_plan.length, chunks))
    compiled = amounts_of((entry.code, len(entry.data)) for container in slimmed for entry in container.added)
    retained = ((entry.code, entry.header + entry.size) for container in slimmed for entry in container.entries)
    report = SlimmedLibrary(
        path=path,
        method=_method(source.size, after) if outcomes else "unchanged",
        before=source.size,
        after=after,
        retained=amounts_of(
            chain(retained, ((entry.code, len(entry.data)) for container in slimmed for entry in container.added))
        ),
        removed=amounts_of(
            (entry.code, entry.header + entry.size) for container in slimmed for entry in _removed(container)
        ),
        note=note,
        compiled=compiled,
    )
    return SlimLibrary(report, chunks)


def _method(before: int, after: int) -> SlimMethod:
    return "compact" if after < before else "in-place" if after == before else "grown"


def _slimmed(
    source: ByteSource,
    section: SectionHeader,
    rules: SlimRules,
    unit: SlimUnit,
    added: Mapping[int, tuple[AddedEntry, ...]],
) -> Iterator[SlimmedContainer]:
    def kernels(entry: Entry) -> list[bytes]:
        return kernel_names.names(fatbin.payload(source, entry), entry.code.target.kind) if entry.code else []

    containers = fatbin.containers_between(source, section.offset, section.offset + section.size)
    for number, container in enumerate(containers):
        more = added.get(number, ())
        entries = tuple(retained_entries(container.entries, rules, kernels, more))
        if unit == "container" and entries:
            entries = container.entries
        yield SlimmedContainer(container, head_of(source, container), entries, more)


def _removed(slimmed: SlimmedContainer) -> Iterator[Entry]:
    offsets = {entry.offset for entry in slimmed.entries}
    return (entry for entry in slimmed.container.entries if entry.offset not in offsets)


def _compacted(
    source: ByteSource, layout: ElfLayout, section: SectionHeader, containers: Sequence[SlimmedContainer]
) -> _Outcome:
    """Move containers to the section's start and cut its end off; where that cannot be, slim them in place.

    If added code makes them larger than the section, they move to the end of the file.

    Raises:
        NoRoomError: added code fits neither way.
    """
    shift = section.address - section.offset
    moves = movability(source, layout, section, [item.container.offset + shift for item in containers])
    if moves.obstacle:
        return _in_place(containers, moves.obstacle)
    align = section.align if fatbin.ALIGNMENT <= section.align <= _LARGEST_ALIGN else fatbin.ALIGNMENT
    if section.address % align:
        return _in_place(containers, "its GPU code has an unusual alignment")
    chunks, positions = _packed(containers, align)
    size = sum(map(byte_plan.length, chunks))
    end = section.offset + section.size
    starts = [item.container.offset + shift for item in containers]
    sizes = {start: item.size for start, item in zip(starts, containers, strict=True)}
    if size > section.size:
        segment = appended_segment(source, layout, section, size)
        if isinstance(segment, str):
            return _in_place(containers, segment)
        new_starts = {start: segment.address + position for start, position in zip(starts, positions, strict=True)}
        patches = dict(segment.patches) | _pointers(source, moves, new_starts)
        patches |= _symbols(source, layout, section, new_starts, sizes, segment.address)
        regions = (
            Region(section.offset, end, (Zeros(section.size),)),
            Region(source.size, source.size, (Zeros(segment.offset - source.size), *chunks)),
        )
        return _Outcome(regions, patches, None)
    cut = cut_after(source, layout, section, size)
    if isinstance(cut, str):
        return _in_place(containers, cut)
    new_starts = {start: section.address + position for start, position in zip(starts, positions, strict=True)}
    chunks += [Zeros(cut.start - section.offset - size), Zeros(end - cut.stop)]
    patches = dict(cut.patches) | _pointers(source, moves, new_starts)
    patches |= _symbols(source, layout, section, new_starts, sizes, section.address)
    return _Outcome((Region(section.offset, end, tuple(chunks)),), patches, None)


def _packed(containers: Sequence[SlimmedContainer], align: int) -> tuple[list[Chunk], list[int]]:
    """Return the chunks of containers that follow each other, and where each begins."""
    chunks: list[Chunk] = []
    positions = []
    size = 0
    for item in containers:
        padding = -size % align
        positions.append(size + padding)
        chunks += [Zeros(padding), *item.chunks]
        size += padding + item.size
    return chunks, positions


def _pointers(source: ByteSource, moves: Movability, starts: Mapping[int, int]) -> dict[int, bytes]:
    """Return the pointers to containers, with the new addresses."""
    patches: dict[int, bytes] = {}
    for target, reference in moves.pointers.items():
        moved = elf_layout.WORD.pack(starts[target])
        if reference.addend is not None:
            patches[reference.addend] = moved
        if reference.addend is None or source.read(reference.pointer, 8) == elf_layout.WORD.pack(target):
            patches[reference.pointer] = moved
    return patches


def _symbols(
    source: ByteSource,
    layout: ElfLayout,
    section: SectionHeader,
    starts: Mapping[int, int],
    sizes: Mapping[int, int],
    address: int,
) -> dict[int, bytes]:
    """Return the symbols of debuggers for containers, with the new addresses; those for other bytes are `address`."""
    number = layout.sections.index(section)
    patches: dict[int, bytes] = {}
    for table in layout.sections:
        if table.type == elf_layout.SYMTAB and table.in_file:
            for offset, row in elf_layout.rows(source, table.offset, table.size, elf_layout.SYMBOL):
                name, info, other, index, value, size = row
                if index == number:
                    moved = (starts.get(value, address), sizes.get(value, 0) if size else 0)
                    patches[offset] = elf_layout.SYMBOL.pack(name, info, other, index, *moved)
    return patches


def _in_place(containers: Sequence[SlimmedContainer], note: str | None) -> _Outcome:
    """Move the entries that stay to the start of their container; zeros follow them.

    Raises:
        NoRoomError: a container becomes larger.
    """
    regions = []
    for item in containers:
        if item.size > item.room:
            raise NoRoomError(note or "a container has not enough")
        if item.is_changed:
            start = item.container.offset
            regions.append(Region(start, start + item.room, (*item.chunks, Zeros(item.room - item.size))))
    return _Outcome(tuple(regions), {}, note)


def amounts_of(entries: Iterable[tuple[Code | None, int]]) -> tuple[CodeAmount, ...]:
    """Return the code for each target, of pairs of code and its bytes."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for code, size in entries:
        row = counts[_label(code)]
        row[0] += 1
        row[1] += size
    return tuple(CodeAmount(target=target, entries=row[0], size=row[1]) for target, row in sorted(counts.items()))


def _label(code: Code | None) -> str:
    if code is None:
        return "other"
    prefix = "sm" if code.target.kind == "sass" else "ptx"
    return f"{prefix}_{code.target.sm}{code.target.variant}"


def unchanged(source: ByteSource, path: str, note: str) -> SlimLibrary:
    """Return a library as it is, with the reason."""
    report = SlimmedLibrary(
        path=path,
        method="unchanged",
        before=source.size,
        after=source.size,
        retained=(),
        removed=(),
        note=note,
    )
    return SlimLibrary(report, (Copy(0, source.size),))


def has_code(layout: ElfLayout, sections: Mapping[str, SlimUnit]) -> bool:
    """Return whether a library has a section of GPU code."""
    names = {section.name for section in layout.sections if section.in_file}
    return any(name in names for name in (*fatbin.SECTIONS, *map(str.encode, sections)))

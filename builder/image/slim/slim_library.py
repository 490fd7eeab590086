"""Takes the code for other GPUs out of one library.

Entries that stay have the same bytes as before. Where the library allows it, containers move together and the file
becomes shorter; else they stay where they are, and zeros replace what went.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import fatbin, kernel_names
from builder.audit.byte_source import MalformedError
from builder.image.slim import byte_plan, elf_layout
from builder.image.slim.byte_plan import Copy, Region, Zeros
from builder.image.slim.code_references import movability
from builder.image.slim.container_writer import container_head, head_of
from builder.image.slim.entry_choice import retained_entries
from builder.image.slim.segment_split import cut_after
from builder.model.slimming import CodeAmount, SlimmedLibrary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.audit.byte_source import ByteSource
    from builder.audit.fatbin import Code, Container, Entry
    from builder.image.slim.byte_plan import Chunk
    from builder.image.slim.elf_layout import ElfLayout, SectionHeader
    from builder.image.slim.package_rules import SlimUnit
    from builder.model.slimming import SlimMethod, SlimRules

_LARGEST_ALIGN = 4096


class SlimmedContainer(NamedTuple):
    """A container and its entries that stay."""

    container: Container
    head: bytes
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """The bytes of the new container."""
        return len(self.head) + sum(entry.header + entry.size for entry in self.entries)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The new container."""
        size = self.size - len(self.head)
        copies = (Copy(entry.offset, entry.header + entry.size) for entry in self.entries)
        return (container_head(self.head, size), *copies)

    @property
    def is_smaller(self) -> bool:
        """Whether entries went."""
        return len(self.entries) < len(self.container.entries)


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


def slim_library(
    source: ByteSource, path: str, rules: SlimRules, sections: Mapping[str, SlimUnit] | None = None
) -> SlimLibrary:
    """Return a library without the code for other GPUs; `sections` are further ones with code, slimmed in place.

    Raises:
        MalformedError: it is not a library, or its GPU code is malformed.
    """
    layout = elf_layout.read_layout(source)
    slimmed: list[SlimmedContainer] = []
    outcomes: list[_Outcome] = []
    for section in layout.sections:
        own = section.name in fatbin.SECTIONS
        unit = "entry" if own else (sections or {}).get(section.name.decode("utf-8", "replace"))
        if section.in_file and unit:
            if layout.segment_of(section) is None:
                raise MalformedError("its GPU code is not loaded where its section states")
            containers = list(_slimmed(source, section, rules, unit))
            slimmed += containers
            if any(container.is_smaller for container in containers):
                outcomes.append(_compacted(source, layout, section, containers) if own else _in_place(containers, None))
    regions = [region for outcome in outcomes for region in outcome.regions]
    patches = {at: patch for outcome in outcomes for at, patch in outcome.patches.items()}
    note = next((outcome.note for outcome in outcomes if outcome.note), None)
    chunks = byte_plan.arranged(source.size, regions, patches)
    after = sum(map(byte_plan.length, chunks))
    method: SlimMethod = "unchanged" if not outcomes else "compact" if after < source.size else "in-place"
    report = SlimmedLibrary(
        path=path,
        method=method,
        before=source.size,
        after=after,
        retained=_amounts(entry for container in slimmed for entry in container.entries),
        removed=_amounts(entry for container in slimmed for entry in _removed(container)),
        note=note,
    )
    return SlimLibrary(report, chunks)


def _slimmed(
    source: ByteSource, section: SectionHeader, rules: SlimRules, unit: SlimUnit
) -> Iterator[SlimmedContainer]:
    def kernels(entry: Entry) -> list[bytes]:
        return kernel_names.names(fatbin.payload(source, entry), entry.code.target.kind) if entry.code else []

    for container in fatbin.containers_between(source, section.offset, section.offset + section.size):
        entries = tuple(retained_entries(container.entries, rules, kernels))
        if unit == "container" and entries:
            entries = container.entries
        yield SlimmedContainer(container, head_of(source, container), entries)


def _removed(slimmed: SlimmedContainer) -> Iterator[Entry]:
    offsets = {entry.offset for entry in slimmed.entries}
    return (entry for entry in slimmed.container.entries if entry.offset not in offsets)


def _compacted(
    source: ByteSource, layout: ElfLayout, section: SectionHeader, containers: Sequence[SlimmedContainer]
) -> _Outcome:
    """Move containers to the section's start and cut its end off; where that cannot be, slim them in place."""
    shift = section.address - section.offset
    moves = movability(source, layout, section, [item.container.offset + shift for item in containers])
    if moves.obstacle:
        return _in_place(containers, moves.obstacle)
    align = section.align if fatbin.ALIGNMENT <= section.align <= _LARGEST_ALIGN else fatbin.ALIGNMENT
    chunks: list[Chunk] = []
    size = 0
    new_starts: dict[int, int] = {}
    for item in containers:
        padding = -size % align
        new_starts[item.container.offset + shift] = section.address + size + padding
        chunks += [Zeros(padding), *item.chunks]
        size += padding + item.size
    if section.address % align or size > section.size:
        return _in_place(containers, "its GPU code has an unusual alignment")
    cut = cut_after(source, layout, section, size)
    if isinstance(cut, str):
        return _in_place(containers, cut)
    chunks += [Zeros(cut.start - section.offset - size), Zeros(section.offset + section.size - cut.stop)]
    patches = dict(cut.patches)
    for target, reference in moves.pointers.items():
        moved = elf_layout.WORD.pack(new_starts[target])
        if reference.addend is not None:
            patches[reference.addend] = moved
        if reference.addend is None or source.read(reference.pointer, 8) == elf_layout.WORD.pack(target):
            patches[reference.pointer] = moved
    sizes = {item.container.offset + shift: item.size for item in containers}
    patches |= _symbols(source, layout, section, new_starts, sizes)
    region = Region(section.offset, section.offset + section.size, tuple(chunks))
    return _Outcome((region,), patches, None)


def _symbols(
    source: ByteSource, layout: ElfLayout, section: SectionHeader, starts: dict[int, int], sizes: dict[int, int]
) -> dict[int, bytes]:
    """Return the symbols of debuggers for containers, with the new addresses; those for other bytes are the section."""
    number = layout.sections.index(section)
    patches: dict[int, bytes] = {}
    for table in layout.sections:
        if table.type == elf_layout.SYMTAB and table.in_file:
            for offset, row in elf_layout.rows(source, table.offset, table.size, elf_layout.SYMBOL):
                name, info, other, index, value, size = row
                if index == number:
                    moved = (starts.get(value, section.address), sizes.get(value, 0) if size else 0)
                    patches[offset] = elf_layout.SYMBOL.pack(name, info, other, index, *moved)
    return patches


def _in_place(containers: Sequence[SlimmedContainer], note: str | None) -> _Outcome:
    """Move the entries that stay to the start of their container; zeros follow them."""
    regions = []
    for item in containers:
        if item.is_smaller:
            old = item.container
            freed = old.header + old.size - item.size
            regions.append(Region(old.offset, old.offset + old.header + old.size, (*item.chunks, Zeros(freed))))
    return _Outcome(tuple(regions), {}, note)


def _amounts(entries: Iterable[Entry]) -> tuple[CodeAmount, ...]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for entry in entries:
        row = counts[_label(entry.code)]
        row[0] += 1
        row[1] += entry.header + entry.size
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

"""Checks that slimming gives an error, or a library that is not larger and has all code that stays."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from builder.audit import fatbin, kernel_names
from builder.audit.byte_source import MalformedError, Plain
from builder.image.slim import elf_layout
from builder.image.slim.entry_choice import retained_entries
from builder.image.slim.slim_library import slim_library

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.fatbin import Entry
    from builder.image.slim.elf_layout import ElfLayout
    from builder.model.slimming import SlimRules

_DT_RELA, _DT_RELASZ = 7, 8
_POINTER = 8
_BLOCK = 512


class Violation(Exception):  # noqa: N818  # a result of the check, not a failure of the program
    """The slimmed library is wrong."""


def outcome(data: bytes, rules: SlimRules) -> str:
    """Return how a library was slimmed, or `malformed`.

    Raises:
        Violation: the result is wrong.
    """
    try:
        library = slim_library(Plain(data), "library.so", rules)
        result = b"".join(library.blocks(Plain(data)))
    except MalformedError:
        return "malformed"
    if len(result) > len(data) or len(result) != library.report.after:
        raise Violation(f"{len(data)} bytes became {len(result)}")
    if library.report.method == "unchanged":
        if result != data:
            raise Violation("an unchanged library differs")
        return "unchanged"
    try:
        _compare(data, result, rules)
        again = slim_library(Plain(result), "library.so", rules)
    except MalformedError as error:
        raise Violation(f"the result cannot be read: {error.message}") from error
    if again.report.method != "unchanged":
        raise Violation("slimming again changes the library again")
    return library.report.method


def _compare(data: bytes, result: bytes, rules: SlimRules) -> None:
    before, after = Plain(data), Plain(result)
    old, new = elf_layout.read_layout(before), elf_layout.read_layout(after)
    expected = dict(_containers(before, old, rules))
    actual = dict(_containers(after, new, None))
    if list(expected.values()) != list(actual.values()):
        raise Violation("the code that stays differs")
    ranges = [(row.address, row.address + row.size) for row in old.sections if row.name in fatbin.SECTIONS]
    try:
        moved = dict(_pointers(before, old, ranges))
    except MalformedError:
        # The loader refuses it, and the writer leaves the containers where they are without reading the table.
        moved = {}
    for place, target in moved.items():
        address = struct.unpack("<q", _loaded(after, new, place, 8, ranges))[0]
        if target in expected and expected[target] != actual.get(address):
            raise Violation("a pointer names another container")
    _compare_images(before, old, after, new, ranges, moved)


def _containers(source: Plain, layout: ElfLayout, rules: SlimRules | None) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the addresses of containers with their entries, without those that go."""

    def kernels(entry: Entry) -> list[bytes]:
        return kernel_names.names(fatbin.payload(source, entry), entry.code.target.kind) if entry.code else []

    for section in layout.sections:
        if section.name in fatbin.SECTIONS and section.in_file:
            for container in fatbin.containers_between(source, section.offset, section.offset + section.size):
                entries = retained_entries(container.entries, rules, kernels) if rules else container.entries
                raw = [source.read(entry.offset, entry.header + entry.size) for entry in entries]
                yield container.offset - section.offset + section.address, raw


def _pointers(source: Plain, layout: ElfLayout, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the addresses of addends that point into GPU code, with the addends."""
    if layout.tags.get(_DT_RELA) and layout.tags.get(_DT_RELASZ):
        at = layout.offset_of(layout.tags[_DT_RELA], layout.tags[_DT_RELASZ])
        for offset, (_, _, addend) in elf_layout.rows(source, at, layout.tags[_DT_RELASZ], elf_layout.RELA):
            if any(start <= addend < stop for start, stop in ranges):
                yield offset - at + layout.tags[_DT_RELA] + 16, addend


def _compare_images(
    before: Plain,
    old: ElfLayout,
    after: Plain,
    new: ElfLayout,
    ranges: list[tuple[int, int]],
    pointers: dict[int, int],
) -> None:
    """Compare what the loader loads, without the GPU code, its pointers and the headers."""
    shifting = {place + index for place in pointers for index in range(8)}
    for row in old.sections:
        if row.name == b".nvFatBinSegment":
            shifting |= {row.address + start + _POINTER + byte for start in range(0, row.size, 24) for byte in range(8)}
    headers = [(0, 64), (old.programs_at, old.programs_at + 56 * (len(old.programs) + 1))]
    headers.append((old.sections_at, old.sections_at + 64 * len(old.sections)))
    for program in old.programs:
        if program.type != elf_layout.LOAD:
            continue
        original = bytearray(before.read(program.offset, program.in_file))
        loaded = bytearray(_loaded(after, new, program.address, program.in_file, ranges))
        for start, stop in ranges:
            first, last = max(0, start - program.address), min(program.in_file, stop - program.address)
            if first < last:
                original[first:last] = loaded[first:last] = bytes(last - first)
        for index in _differences(bytes(original), bytes(loaded)):
            address, offset = program.address + index, program.offset + index
            if address not in shifting and not any(start <= offset < stop for start, stop in headers):
                raise Violation(f"the byte at {address:#x} differs")


def _differences(left: bytes, right: bytes) -> Iterator[int]:
    """Yield the positions at which two sequences of one length differ."""
    for start in range(0, len(left), _BLOCK):
        if left[start : start + _BLOCK] != right[start : start + _BLOCK]:
            block = zip(left[start : start + _BLOCK], right[start : start + _BLOCK], strict=True)
            yield from (start + index for index, (a, b) in enumerate(block) if a != b)


def _loaded(source: Plain, layout: ElfLayout, address: int, size: int, ranges: list[tuple[int, int]]) -> bytes:
    """Return loaded bytes; only GPU code may be missing."""
    content = bytearray(size)
    covered = bytearray(size)
    for program in layout.programs:
        if program.type == elf_layout.LOAD:
            start, stop = max(address, program.address), min(address + size, program.address + program.in_file)
            if start < stop:
                content[start - address : stop - address] = source.read(
                    program.offset + start - program.address, stop - start
                )
                covered[start - address : stop - address] = b"\1" * (stop - start)
    for start, stop in ranges:
        first, last = max(0, start - address), min(size, stop - address)
        if first < last:
            covered[first:last] = b"\1" * (last - first)
    if covered.count(0):
        raise Violation(f"bytes from {address + covered.index(0):#x} on are no longer loaded")
    return bytes(content)

"""Reads the GPUs that a library has code for from the headers of its fat binaries, never the payloads.

NVIDIA does not document the format; files of CUDA 11 to 13 have this one, and `cuobjdump` agrees.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from builder.audit.byte_source import MalformedError
from builder.model.audits import GpuTarget, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.audit.byte_source import ByteSource
    from builder.audit.elf import ElfFacts

# The runtime registers this one. `__nv_relfatbin` has relocatable code for the device linker, which no GPU runs.
SECTIONS = (b".nv_fatbin",)
_MAGIC = 0xBA55ED50
_KINDS: dict[int, Kind] = {1: "ptx", 2: "sass"}
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHI")
_ALIGNMENT = 8
# Containers of a library are adjacent; only padding separates them.
_MOST_PADDING = 4096
_MOST_ENTRIES = 2_000_000


class Code(NamedTuple):
    """A target, and the version of PTX, which the driver must know; (0, 0) for SASS."""

    target: GpuTarget
    isa: tuple[int, int]


def codes(source: ByteSource, facts: ElfFacts) -> Counter[Code]:
    """Return the targets of a library's code, and how often each occurs: kernels of several sources may differ.

    Raises:
        MalformedError: the fat binaries are cut off or malformed.
    """
    counts: Counter[Code] = Counter()
    for section in facts.sections:
        if section.name in SECTIONS:
            counts.update(_entries(source, section.offset, section.offset + section.size))
            if sum(counts.values()) > _MOST_ENTRIES:
                raise MalformedError("it claims more GPU code than any library has")
    return counts


def _entries(source: ByteSource, position: int, end: int) -> Iterator[Code]:
    for start, stop in _containers(source, position, end):
        at = start
        while at + _ENTRY.size <= stop:
            kind, _, header, size, _, _, minor, major, sm = _ENTRY.unpack(source.read(at, _ENTRY.size))
            if header < _ENTRY.size or at + header + size > stop:
                raise MalformedError("an entry of its GPU code reaches beyond its container")
            if kind in _KINDS:
                code_kind = _KINDS[kind]
                yield Code(GpuTarget(code_kind, sm), (major, minor) if code_kind == "ptx" else (0, 0))
            at += header + size


def _containers(source: ByteSource, position: int, end: int) -> Iterable[tuple[int, int]]:
    while position + _CONTAINER.size <= end:
        magic, _, header, size = _CONTAINER.unpack(source.read(position, _CONTAINER.size))
        if magic != _MAGIC:
            position = _next(source, position, end)
            continue
        if header < _CONTAINER.size or position + header + size > end:
            raise MalformedError("its GPU code is cut off")
        yield position + header, position + header + size
        position += header + size
        position += -position % _ALIGNMENT


def _next(source: ByteSource, position: int, end: int) -> int:
    """Return the position of the next container after padding; without one, the rest is not known GPU code."""
    window = source.read(position, min(_MOST_PADDING, end - position))
    start = window.find(_MAGIC.to_bytes(4, "little"), 1)
    return position + start if start >= 0 else end

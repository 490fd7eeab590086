"""Reads which GPUs a library carries code for, from the headers of its fat binaries. Payloads are never read.

The format is NVIDIA's and not documented; this is how files of CUDA 11 to 13 are seen to be, and `cuobjdump` agrees.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import elf
from builder.audit.byte_source import File, MalformedError
from builder.model.audits import GpuTarget, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.audit.byte_source import ByteSource
    from builder.audit.elf import ElfFacts

# What the runtime registers. `__nv_relfatbin` holds relocatable code, the device linker's input, which no GPU runs.
SECTIONS = (b".nv_fatbin",)
_MAGIC = 0xBA55ED50
_KINDS: dict[int, Kind] = {1: "ptx", 2: "sass"}
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHI")
_ALIGNMENT = 8
# Containers of a library lie beside each other; between them there is padding at most.
_MOST_PADDING = 4096
_MOST_ENTRIES = 2_000_000


class Code(NamedTuple):
    """A target, and for PTX the version of its language, which the driver must know; (0, 0) for SASS."""

    target: GpuTarget
    isa: tuple[int, int]


def targets(path: Path) -> tuple[GpuTarget, ...]:
    """Return what a library carries code for, sorted.

    Raises:
        MalformedError: it is no ELF file, or its fat binaries are cut off.
    """
    source = File(path)
    return tuple(sorted({code.target for code in codes(source, elf.read_source(source))}))


def codes(source: ByteSource, facts: ElfFacts) -> Counter[Code]:
    """Return what a library carries code for, and how often: kernels of different sources have different targets.

    Raises:
        MalformedError: the fat binaries are cut off or not such.
    """
    found: Counter[Code] = Counter()
    for section in facts.sections:
        if section.name in SECTIONS:
            found.update(_entries(source, section.offset, section.offset + section.size))
            if sum(found.values()) > _MOST_ENTRIES:
                raise MalformedError("it claims more GPU code than any library has")
    return found


def _entries(source: ByteSource, position: int, end: int) -> Iterator[Code]:
    for start, stop in _containers(source, position, end):
        at = start
        while at + _ENTRY.size <= stop:
            kind, _, header, size, _, _, minor, major, sm = _ENTRY.unpack(source.read(at, _ENTRY.size))
            if header < _ENTRY.size or at + header + size > stop:
                raise MalformedError("an entry of its GPU code reaches beyond its container")
            if kind in _KINDS:
                known = _KINDS[kind]
                yield Code(GpuTarget(known, sm), (major, minor) if known == "ptx" else (0, 0))
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
    """Skip padding; what follows it and is no container is no GPU code that we know."""
    window = source.read(position, min(_MOST_PADDING, end - position))
    found = window.find(_MAGIC.to_bytes(4, "little"), 1)
    return position + found if found >= 0 else end

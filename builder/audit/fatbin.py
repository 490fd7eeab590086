"""Reads the containers of GPU code in a library: their entries' headers, and an entry's payload on demand.

NVIDIA does not document the format; files of CUDA 11 to 13 have this one, and `cuobjdump` agrees.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

import lz4.block
import zstandard

from builder.audit.byte_source import MalformedError
from builder.model.audits import GpuTarget, Kind, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.byte_source import ByteSource
    from builder.audit.elf import ElfFacts

# The runtime registers this one. `__nv_relfatbin` has relocatable code for the device linker, which no GPU runs.
SECTIONS = (b".nv_fatbin",)
MAGIC = 0xBA55ED50
CONTAINER = struct.Struct("<IHHQ")
ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
# Containers start at multiples of this, and entries follow each other without padding.
ALIGNMENT = 8
# Where a text in a header begins, and its length.
_TEXT = struct.Struct("<II")
_KINDS: dict[int, Kind] = {1: "ptx", 2: "sass"}
_LZ4, _ZSTD = 0x2000, 0x8000
_ARCHITECTURE, _FAMILY = 0x100000, 0x200000
# Containers of a library are adjacent; only padding separates them.
_MOST_PADDING = 4096
_ZEROS_BLOCK = 1 << 20
_MOST_ENTRIES = 2_000_000
_TOO_MANY = "it claims more GPU code than any library has"
# The largest payload of today's wheels has 30 MB.
_LARGEST_PAYLOAD = 256 << 20


class Code(NamedTuple):
    """A target, and the version of PTX, which the driver must know; (0, 0) for SASS."""

    target: GpuTarget
    isa: tuple[int, int]


class Entry(NamedTuple):
    """Code for one GPU in a container, or data of another kind (`code` is None).

    `offset` is where its header starts in the file, `header` and `size` the bytes of the header and of the payload with
    its padding. `packed` and `unpacked` are the bytes of the payload, compressed and not; they are equal without
    compression.
    """

    offset: int
    header: int
    size: int
    code: Code | None
    flags: int
    packed: int
    unpacked: int

    @property
    def compression(self) -> Literal["lz4", "zstd"] | None:
        """How the payload is compressed."""
        return "zstd" if self.flags & _ZSTD else "lz4" if self.flags & _LZ4 else None


class Container(NamedTuple):
    """Code that the runtime registers as one: of all entries, it loads one that fits the GPU.

    `offset` is where its header starts in the file, `header` and `size` the bytes of the header and of all entries.
    """

    offset: int
    header: int
    size: int
    entries: tuple[Entry, ...]


def codes(source: ByteSource, facts: ElfFacts) -> Counter[Code]:
    """Return the targets of a library's code, and how often each occurs: kernels of several sources may differ.

    Raises:
        MalformedError: the fat binaries are cut off or malformed.
    """
    counts: Counter[Code] = Counter()
    for container in containers(source, facts):
        counts.update(entry.code for entry in container.entries if entry.code)
    return counts


def containers(source: ByteSource, facts: ElfFacts, names: tuple[bytes, ...] = SECTIONS) -> Iterator[Container]:
    """Yield the containers of some sections of a library.

    Raises:
        MalformedError: one is cut off or malformed.
    """
    entries = 0
    for section in facts.sections:
        if section.name in names:
            for container in containers_between(source, section.offset, section.offset + section.size):
                entries += len(container.entries)
                if entries > _MOST_ENTRIES:
                    raise MalformedError(_TOO_MANY)
                yield container


def containers_between(source: ByteSource, position: int, end: int) -> Iterator[Container]:
    """Yield the containers between two offsets.

    Raises:
        MalformedError: one is cut off or malformed.
    """
    for at, header, size in _bounds(source, position, end):
        yield Container(at, header, size, tuple(_entries(source, at + header, at + header + size)))


def entries(source: ByteSource, facts: ElfFacts) -> Iterator[tuple[int, Entry]]:
    """Yield the entries of a library with the numbers of their containers.

    An entry's header is read when it is asked for, so that deflated bytes are inflated once: containers may be large.

    Raises:
        MalformedError: a container is cut off or malformed.
    """
    number = count = 0
    for section in facts.sections:
        if section.name not in SECTIONS:
            continue
        for at, header, size in _bounds(source, section.offset, section.offset + section.size):
            for entry in _entries(source, at + header, at + header + size):
                count += 1
                if count > _MOST_ENTRIES:
                    raise MalformedError(_TOO_MANY)
                yield number, entry
            number += 1


def _bounds(source: ByteSource, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield each container's offset, the bytes of its header and those of its entries."""
    while position + CONTAINER.size <= end:
        magic, _, header, size = CONTAINER.unpack(source.read(position, CONTAINER.size))
        if magic != MAGIC:
            position = _next(source, position, end)
            continue
        if header < CONTAINER.size or position + header + size > end:
            raise MalformedError("its GPU code is cut off")
        yield position, header, size
        position += header + size
        position += -position % ALIGNMENT


def _entries(source: ByteSource, at: int, stop: int) -> Iterator[Entry]:
    while at + ENTRY.size <= stop:
        kind, _, header, size, packed, _, minor, major, sm, _, _, flags, _, unpacked = ENTRY.unpack(
            source.read(at, ENTRY.size)
        )
        if header < ENTRY.size or at + header + size > stop:
            raise MalformedError("an entry of its GPU code reaches beyond its container")
        code = None
        if kind in _KINDS:
            code_kind = _KINDS[kind]
            isa = (major, minor) if code_kind == "ptx" else (0, 0)
            code = Code(GpuTarget(code_kind, sm, _variant(flags)), isa)
        if not flags & (_LZ4 | _ZSTD):
            packed = unpacked = size
        yield Entry(at, header, size, code, flags, packed, unpacked)
        at += header + size


def _variant(flags: int) -> Variant:
    return "a" if flags & _ARCHITECTURE else "f" if flags & _FAMILY else ""


def _next(source: ByteSource, position: int, end: int) -> int:
    """Return the position of the next container after padding; without one, the rest is not known GPU code."""
    window = source.read(position, min(_MOST_PADDING, end - position))
    start = window.find(MAGIC.to_bytes(4, "little"), 1)
    if start >= 0:
        return position + start
    return end if any(window) else _after_zeros(source, position + len(window), end)


def _after_zeros(source: ByteSource, position: int, end: int) -> int:
    """Return where the first byte that is not zero can belong to a container: zeros replace code that was taken out."""
    while position < end:
        window = source.read(position, min(_ZEROS_BLOCK, end - position))
        rest = window.lstrip(b"\0")
        if rest:
            start = position + len(window) - len(rest)
            return start - start % ALIGNMENT
        position += len(window)
    return end


def payload(source: ByteSource, entry: Entry) -> bytes:
    """Return the code of an entry, without compression; SASS is an ELF file (a cubin), PTX is text.

    Raises:
        MalformedError: it is cut off, cannot be decompressed, or has another size than its header states.
    """
    if max(entry.unpacked, entry.packed) > _LARGEST_PAYLOAD:
        raise MalformedError("an entry of its GPU code claims more than 256 MiB")
    if entry.packed > entry.size:
        raise MalformedError("an entry of its GPU code is larger than its room")
    data = source.read(entry.offset + entry.header, entry.packed)
    if entry.compression:
        data = (_zstd if entry.compression == "zstd" else _lz4)(data, entry.unpacked)
    return data


def options_text(source: ByteSource, entry: Entry) -> bytes:
    """Return the options of `ptxas` that PTX was compiled with: a text in the header's second part.

    Raises:
        MalformedError: the header is cut off.
    """
    fields = ENTRY.unpack(source.read(entry.offset, ENTRY.size))
    at = fields[5]
    if not at or at + _TEXT.size > entry.header:
        return b""
    start, size = _TEXT.unpack(source.read(entry.offset + at, _TEXT.size))
    if start + size > entry.header:
        raise MalformedError("an entry of its GPU code has options beyond its header")
    return source.read(entry.offset + start, size)


def _zstd(data: bytes, size: int) -> bytes:
    try:
        # The frame's own header decides the allocation, so it is checked first.
        if zstandard.frame_content_size(data) not in {-1, size}:
            raise MalformedError("an entry of its GPU code has another size than its header states")
        unpacked = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise MalformedError(f"an entry of its GPU code cannot be decompressed: {error}") from error
    if len(unpacked) != size:
        raise MalformedError("an entry of its GPU code has another size than its header states")
    return unpacked


def _lz4(data: bytes, size: int) -> bytes:
    try:
        unpacked = lz4.block.decompress(data, uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise MalformedError(f"an entry of its GPU code cannot be decompressed: {error}") from error
    if len(unpacked) != size:
        raise MalformedError("an entry of its GPU code has another size than its header states")
    return bytes(unpacked)

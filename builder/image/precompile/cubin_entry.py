"""The entry of a cubin in a container of GPU code, with the bytes that NVIDIA's `fatbinary` writes.

A test compares them with those of `fatbinary` itself, which is in the wheel that has `ptxas`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import zstandard

from builder.audit import fatbin
from builder.audit.byte_source import MalformedError

if TYPE_CHECKING:
    from builder.model.audits import GpuTarget, Variant

_SASS, _VERSION = 2, 0x101
# 64-bit addresses, and a Linux host.
_USUAL_FLAGS = 0x11
_ZSTD, _WITH_COMPATIBILITY = 0x8000, 0x1000000
_VARIANT_FLAGS: dict[Variant, int] = {"": 0, "a": 0x100000, "f": 0x200000}
# The format of a cubin's own version, whose second number is the ABI in its ELF header.
_CUBIN_MAJOR = 1
_OSABI_AT, _ABI_AT = 7, 8
_NEWER_OSABI = 0x41
# From this SM on, `fatbinary` copies the section into the entry's header, and drivers choose by it.
_FIRST_WITH_COMPATIBILITY = 100
_COMPATIBILITY = b".nv.compat"
_TEXT = struct.Struct("<II")
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
# Level 19 has the window of `fatbinary --compress-mode=size`.
_LEVEL = 19


class PackedCubin(NamedTuple):
    """A cubin for a GPU, and the same as a zstd frame."""

    target: GpuTarget
    cubin: bytes
    frame: bytes


def pack_cubin(cubin: bytes, target: GpuTarget) -> PackedCubin:
    """Return a cubin, compressed."""
    return PackedCubin(target, cubin, zstandard.ZstdCompressor(level=_LEVEL).compress(cubin))


def entry_bytes(packed: PackedCubin, *, compressed: bool = True) -> bytes:
    """Return header and payload of the entry; its length is a multiple of 8.

    Raises:
        MalformedError: it is not a cubin.
    """
    target, cubin, frame = packed
    compatibility = _section(cubin, _COMPATIBILITY) if target.sm >= _FIRST_WITH_COMPATIBILITY else b""
    more = _compatibility_header(compatibility) if compatibility else b""
    flags = _USUAL_FLAGS | _VARIANT_FLAGS[target.variant] | (_WITH_COMPATIBILITY if more else 0)
    payload, sizes = _padded(cubin), (0, 0)
    if compressed:
        payload, sizes, flags = _padded(frame), (len(frame), len(cubin)), flags | _ZSTD
    header = fatbin.ENTRY.pack(
        _SASS,
        _VERSION,
        fatbin.ENTRY.size + len(more),
        len(payload),
        sizes[0],
        fatbin.ENTRY.size if more else 0,
        cubin[_ABI_AT],
        _CUBIN_MAJOR,
        target.sm,
        0,
        0,
        flags,
        0,
        sizes[1],
    )
    return header + more + payload


def cubin_sm(cubin: bytes) -> int:
    """Return the SM that a cubin is for: a byte of the flags in its ELF header, another one since CUDA 13.

    Raises:
        MalformedError: it is not a cubin.
    """
    identity, *_, word, _, _, _, _, _, _ = _header(cubin)
    flags = int(word)
    return flags >> 8 & 0xFF if identity[_OSABI_AT] == _NEWER_OSABI else flags & 0xFF


def _compatibility_header(content: bytes) -> bytes:
    """Return the second part of a header: an empty text of options, and the content of `.nv.compat`."""
    return _padded(_TEXT.pack(fatbin.ENTRY.size + _TEXT.size, len(content)) + b"\0" + content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % fatbin.ALIGNMENT)


def _section(cubin: bytes, name: bytes) -> bytes:
    *_, at, _, _, _, _, size, count, strings = _header(cubin)
    try:
        sections = [_SECTION.unpack_from(cubin, at + index * size) for index in range(count)]
        names = cubin[sections[strings][4] :]
        for label, _, _, _, offset, length, *_ in sections:
            if names[label : names.index(b"\0", label)] == name:
                return cubin[offset : offset + length]
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedError("the cubin is cut off") from error
    return b""


def _header(cubin: bytes) -> tuple[Any, ...]:
    if len(cubin) < _ELF_HEADER.size:
        raise MalformedError("the cubin is cut off")
    header = _ELF_HEADER.unpack_from(cubin)
    if not header[0].startswith(b"\x7fELF\x02\x01") or header[-3] != _SECTION.size:
        raise MalformedError("it is not a cubin")
    return header

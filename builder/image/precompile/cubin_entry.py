"""The entry of a cubin in a container of GPU code, with the bytes that NVIDIA's `fatbinary` writes.

A test compares them with those of `fatbinary` itself, which is in the wheel that has `ptxas`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from builder.audit import fatbin
from builder.audit.cubin import read_cubin_headers

if TYPE_CHECKING:
    from builder.model.audits import GpuTarget, Variant

_SASS, _VERSION = 2, 0x101
# 64-bit addresses, and a Linux host.
_USUAL_FLAGS = 0x11
_ZSTD, _WITH_COMPATIBILITY = 0x8000, 0x1000000
_VARIANT_FLAGS: dict[Variant, int] = {"": 0, "a": 0x100000, "f": 0x200000}
# The format of a cubin's own version, whose second number is the ABI in its ELF header.
_CUBIN_MAJOR = 1
# From this SM on, `fatbinary` copies the section into the entry's header, and drivers choose by it.
_FIRST_WITH_COMPATIBILITY = 100
_COMPATIBILITY = b".nv.compat"
_TEXT = struct.Struct("<II")
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
    headers = read_cubin_headers(cubin)
    compatibility = headers.named(_COMPATIBILITY) if target.sm >= _FIRST_WITH_COMPATIBILITY else b""
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
        headers.abi,
        _CUBIN_MAJOR,
        target.sm,
        0,
        0,
        flags,
        0,
        sizes[1],
    )
    return header + more + payload


def _compatibility_header(content: bytes) -> bytes:
    """Return the second part of a header: an empty text of options, and the content of `.nv.compat`."""
    return _padded(_TEXT.pack(fatbin.ENTRY.size + _TEXT.size, len(content)) + b"\0" + content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % fatbin.ALIGNMENT)

"""The entry of a cubin in a container of GPU code, with the bytes that NVIDIA's `fatbinary` writes.

A test compares them with those of `fatbinary` itself, which is in the wheel that has `ptxas`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
_ABI_AT = 8
# From this SM on, `fatbinary` copies the section into the entry's header, and drivers choose by it.
_FIRST_WITH_COMPATIBILITY = 100
_COMPATIBILITY = b".nv.compat"
_TEXT = struct.Struct("<II")
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
# Level 19 has the window of `fatbinary --compress-mode=size`.
_LEVEL = 19


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedCubin:
    """A cubin as a zstd frame; `unpacked` is its size, `abi` and `compatibility` are parts of its ELF file."""

    target: GpuTarget
    frame: bytes
    unpacked: int
    abi: int
    compatibility: bytes


def pack_cubin(cubin: bytes, target: GpuTarget) -> PackedCubin:
    """Return a cubin, compressed.

    Raises:
        MalformedError: it is not a cubin.
    """
    return describe_cubin(cubin, zstandard.ZstdCompressor(level=_LEVEL).compress(cubin), target)


def describe_cubin(cubin: bytes, frame: bytes, target: GpuTarget) -> PackedCubin:
    """Return a cubin with its zstd frame.

    Raises:
        MalformedError: it is not a cubin.
    """
    compatibility = _section(cubin, _COMPATIBILITY) if target.sm >= _FIRST_WITH_COMPATIBILITY else b""
    abi = cubin[_ABI_AT]
    return PackedCubin(target=target, frame=frame, unpacked=len(cubin), abi=abi, compatibility=compatibility)


def entry_bytes(cubin: PackedCubin) -> bytes:
    """Return header and payload of the entry; its length is a multiple of 8."""
    flags = _USUAL_FLAGS | _ZSTD | _VARIANT_FLAGS[cubin.target.variant]
    more = _compatibility_header(cubin.compatibility) if cubin.compatibility else b""
    flags |= _WITH_COMPATIBILITY if more else 0
    payload = _padded(cubin.frame)
    header = fatbin.ENTRY.pack(
        _SASS,
        _VERSION,
        fatbin.ENTRY.size + len(more),
        len(payload),
        len(cubin.frame),
        fatbin.ENTRY.size if more else 0,
        cubin.abi,
        _CUBIN_MAJOR,
        cubin.target.sm,
        0,
        0,
        flags,
        0,
        cubin.unpacked,
    )
    return header + more + payload


def _compatibility_header(content: bytes) -> bytes:
    """Return the second part of a header: an empty text of options, and the content of `.nv.compat`."""
    return _padded(_TEXT.pack(fatbin.ENTRY.size + _TEXT.size, len(content)) + b"\0" + content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % fatbin.ALIGNMENT)


def _section(cubin: bytes, name: bytes) -> bytes:
    try:
        identity, *_, at, _, _, _, _, size, count, strings = _ELF_HEADER.unpack_from(cubin)
        if not identity.startswith(b"\x7fELF\x02\x01") or size != _SECTION.size:
            raise MalformedError("it is not a cubin")
        sections = [_SECTION.unpack_from(cubin, at + index * size) for index in range(count)]
        names = cubin[sections[strings][4] :]
        for label, _, _, _, offset, length, *_ in sections:
            if names[label : names.index(b"\0", label)] == name:
                return cubin[offset : offset + length]
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedError("the cubin is cut off") from error
    return b""

"""The names of kernels in GPU code: symbols of a cubin that are entry points, `.entry` of PTX."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import fatbin
from builder.audit.byte_source import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.byte_source import ByteSource
    from builder.audit.elf import ElfFacts
    from builder.audit.fatbin import Code
    from builder.model.audits import Kind

_PTX_ENTRY = re.compile(rb"\.entry\s+([A-Za-z0-9_$%]+)")
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB = 2
_FUNCTION = 2
# `st_other` of a function that the host can launch (STO_CUDA_ENTRY).
_LAUNCHABLE = 0x10


class CodeEntry(NamedTuple):
    """An entry of GPU code: its target, and the bytes of the code without compression."""

    code: Code
    unpacked: int


def kernels(source: ByteSource, facts: ElfFacts) -> Iterator[tuple[int, CodeEntry, list[bytes]]]:
    """Yield the number of the container and the kernels' names of each entry of GPU code in a library.

    One payload at a time is in memory.

    Raises:
        MalformedError: the GPU code is cut off or malformed.
    """
    for number, container in enumerate(fatbin.containers(source, facts)):
        for entry in container.entries:
            if entry.code:
                kernel_names = names(fatbin.payload(source, entry), entry.code.target.kind)
                yield number, CodeEntry(entry.code, entry.unpacked), kernel_names


def names(payload: bytes, kind: Kind) -> list[bytes]:
    """Return the names of the kernels of a payload, mangled, in its own order.

    Raises:
        MalformedError: the cubin is cut off or malformed.
    """
    return _PTX_ENTRY.findall(payload) if kind == "ptx" else _cubin_kernels(payload)


def _cubin_kernels(cubin: bytes) -> list[bytes]:
    try:
        identity, *_, at, _, _, _, _, size, count, _ = _ELF_HEADER.unpack_from(cubin)
        if not identity.startswith(b"\x7fELF\x02\x01") or size != _SECTION.size:
            raise MalformedError("an entry of its GPU code is not a cubin")
        sections = [_SECTION.unpack_from(cubin, at + index * size) for index in range(count)]
        kernel_names: list[bytes] = []
        for _, kind, _, _, offset, length, link, *_ in sections:
            if kind == _SYMTAB:
                strings = sections[link]
                table = cubin[strings[4] : strings[4] + strings[5]]
                kernel_names += _launchable(cubin[offset : offset + length], table)
    except (struct.error, IndexError, ValueError) as error:
        raise MalformedError("a cubin of its GPU code is cut off") from error
    return kernel_names


def _launchable(symbols: bytes, strings: bytes) -> Iterator[bytes]:
    for name, info, other, *_ in _SYMBOL.iter_unpack(symbols):
        if info & 0xF == _FUNCTION and other & _LAUNCHABLE:
            yield strings[name : strings.index(b"\0", name)]

"""The names of kernels in GPU code: symbols of a cubin that are entry points, `.entry` of PTX."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import fatbin
from builder.audit.byte_source import MalformedError
from builder.audit.cubin import NOTE, SYMTAB, read_cubin_headers
from builder.audit.fatbin import Code
from builder.model.audits import GpuTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.byte_source import ByteSource
    from builder.audit.cubin import Cubin
    from builder.audit.elf import ElfFacts
    from builder.model.audits import Kind, Variant

_PTX_ENTRY = re.compile(rb"\.entry\s+([A-Za-z0-9_$%]+)")
_SYMBOL = struct.Struct("<IBBHQQ")
_FUNCTION = 2
# `st_other` of a function that the host can launch (STO_CUDA_ENTRY).
_LAUNCHABLE = 0x10
# The option that ptxas notes among its own, where the header of a cubin does not state it.
_OPTION = re.compile(rb"-arch[ =]+sm_[0-9]+([af])\b")
_MOST_NOTES, _LONGEST_NOTE = 8, 64 << 10
_LONGEST_NAME = 64 << 10
# Limits that no real file comes near: libtorch_cuda has 10^5 kernels, with 10^7 bytes of names.
_MOST_KERNELS = 4_000_000
_LONGEST_NAMES = 512 << 20


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
    count = size = 0
    for number, entry in fatbin.entries(source, facts):
        if entry.code:
            kernel_names = names(fatbin.payload(source, entry), entry.code.target.kind)
            count, size = count + len(kernel_names), size + sum(map(len, kernel_names))
            if count > _MOST_KERNELS or size > _LONGEST_NAMES:
                raise MalformedError("it claims more kernels than any library has")
            yield number, CodeEntry(entry.code, entry.unpacked), kernel_names


def names(payload: bytes, kind: Kind) -> list[bytes]:
    """Return the names of the kernels of a payload, mangled, in its own order.

    Raises:
        MalformedError: the cubin is cut off or malformed.
    """
    return _PTX_ENTRY.findall(payload) if kind == "ptx" else _launchable(read_cubin_headers(payload))


def loose_cubin(payload: bytes) -> tuple[CodeEntry, list[bytes]]:
    """Return the target and the kernels' names of a cubin that is a file, without a container.

    Raises:
        MalformedError: it is cut off or malformed.
    """
    cubin = read_cubin_headers(payload)
    return CodeEntry(Code(GpuTarget("sass", cubin.sm, _variant(cubin)), (0, 0)), len(payload)), _launchable(cubin)


def _variant(cubin: Cubin) -> Variant:
    if cubin.is_accelerated:
        return "a"
    notes = (cubin.content(note)[:_LONGEST_NOTE] for note in cubin.of_kind(NOTE)[:_MOST_NOTES])
    option = _OPTION.search(b"\n".join(notes))
    return ("a" if option[1] == b"a" else "f") if option else ""


def _launchable(cubin: Cubin) -> list[bytes]:
    tables = cubin.of_kind(SYMTAB)
    if len(tables) > 1:
        raise MalformedError("a cubin of its GPU code has more than one symbol table")
    if not tables:
        return []
    symbols, strings = cubin.content(tables[0]), cubin.linked(tables[0])
    whole = len(symbols) - len(symbols) % _SYMBOL.size
    kernel_names, size = [], 0
    for name, info, other, *_ in _SYMBOL.iter_unpack(symbols[:whole]):
        if info & 0xF == _FUNCTION and other & _LAUNCHABLE:
            end = strings.find(b"\0", name, name + _LONGEST_NAME)
            size += end - name
            if end < 0 or size > _LONGEST_NAMES:
                raise MalformedError("a kernel of its GPU code has no readable name")
            kernel_names.append(strings[name:end])
    return kernel_names

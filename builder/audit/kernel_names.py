"""The names of kernels in GPU code: symbols of a cubin that are entry points, `.entry` of PTX."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from builder.audit import fatbin
from builder.audit.byte_source import MalformedError
from builder.audit.fatbin import Code
from builder.model.audits import GpuTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.byte_source import ByteSource
    from builder.audit.elf import ElfFacts
    from builder.model.audits import Kind, Variant

# The machine of a cubin (EM_CUDA).
MACHINE = 190
_PTX_ENTRY = re.compile(rb"\.entry\s+([A-Za-z0-9_$%]+)")
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _NOTE = 2, 7
_FUNCTION = 2
# `st_other` of a function that the host can launch (STO_CUDA_ENTRY).
_LAUNCHABLE = 0x10
# The byte of `e_ident` with the version of the ABI. From version 8 on, the SM is in the second byte of `e_flags`.
_ABI, _SM_IN_SECOND_BYTE = 8, 8
# `e_flags` of code for exactly one compute capability. Not all compilers set it, but ptxas notes its own options.
_ACCELERATED = 0x8
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


class _Cubin(NamedTuple):
    """What is read of a cubin: the version of its ABI, `e_flags`, its symbols with their strings, its notes."""

    abi: int
    flags: int
    symbols: bytes
    strings: bytes
    notes: bytes


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
    return _PTX_ENTRY.findall(payload) if kind == "ptx" else _launchable(_read(payload))


def loose_cubin(payload: bytes) -> tuple[CodeEntry, list[bytes]]:
    """Return the target and the kernels' names of a cubin that is a file, without a container.

    Raises:
        MalformedError: it is cut off or malformed.
    """
    cubin = _read(payload)
    sm = (cubin.flags >> 8 if cubin.abi >= _SM_IN_SECOND_BYTE else cubin.flags) & 0xFF
    code = Code(GpuTarget("sass", sm, _variant(cubin)), (0, 0))
    return CodeEntry(code, len(payload)), _launchable(cubin)


def _variant(cubin: _Cubin) -> Variant:
    if cubin.abi >= _SM_IN_SECOND_BYTE and cubin.flags & _ACCELERATED:
        return "a"
    option = _OPTION.search(cubin.notes)
    return ("a" if option[1] == b"a" else "f") if option else ""


def _read(payload: bytes) -> _Cubin:
    try:
        identity, _, machine, _, _, _, at, flags, _, _, _, size, count, _ = _ELF_HEADER.unpack_from(payload)
        if not identity.startswith(b"\x7fELF\x02\x01") or machine != MACHINE or size != _SECTION.size:
            raise MalformedError("its GPU code is not a cubin")
        # The first section has the number of sections where `e_shnum` is too small for it.
        count = count or min(_SECTION.unpack_from(payload, at)[5], len(payload) // size)
        sections = [_SECTION.unpack_from(payload, at + index * size) for index in range(count)]
        tables = [section for section in sections if section[1] == _SYMTAB]
        if len(tables) > 1:
            raise MalformedError("a cubin of its GPU code has more than one symbol table")
        symbols, strings = (tables[0], sections[tables[0][6]]) if tables else (None, None)
    except (struct.error, IndexError, OverflowError) as error:
        raise MalformedError("a cubin of its GPU code is cut off") from error
    notes = [section for section in sections if section[1] == _NOTE][:_MOST_NOTES]
    return _Cubin(
        abi=identity[_ABI],
        flags=flags,
        symbols=_content(payload, symbols) if symbols else b"",
        strings=_content(payload, strings) if strings else b"",
        notes=b"\n".join(_content(payload, section)[:_LONGEST_NOTE] for section in notes),
    )


def _content(payload: bytes, section: tuple[int, ...]) -> bytes:
    offset, size = section[4], section[5]
    if offset + size > len(payload):
        raise MalformedError("a cubin of its GPU code is cut off")
    return payload[offset : offset + size]


def _launchable(cubin: _Cubin) -> list[bytes]:
    whole = len(cubin.symbols) - len(cubin.symbols) % _SYMBOL.size
    kernel_names, size = [], 0
    for name, info, other, *_ in _SYMBOL.iter_unpack(cubin.symbols[:whole]):
        if info & 0xF == _FUNCTION and other & _LAUNCHABLE:
            end = cubin.strings.find(b"\0", name, name + _LONGEST_NAME)
            size += end - name
            if end < 0 or size > _LONGEST_NAMES:
                raise MalformedError("a kernel of its GPU code has no readable name")
            kernel_names.append(cubin.strings[name:end])
    return kernel_names

"""Builds small shared libraries with GPU code, as the CUDA compiler and the linker make them; they can be loaded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from collections.abc import Sequence

AMD64, ARM64 = 62, 183
_RELATIVE = {AMD64: 8, ARM64: 1027}
_ZSTD, _ARCHITECTURE, _FAMILY = 0x8000, 0x100000, 0x200000
_WRAPPER_MAGIC = 0x466243B1
_NAMES = (
    "",
    ".note.gnu.build-id",
    ".dynsym",
    ".dynstr",
    ".hash",
    ".rela.dyn",
    ".rodata",
    ".nv_fatbin",
    ".tail",
    ".dynamic",
    ".nvFatBinSegment",
    ".symtab",
    ".strtab",
    ".shstrtab",
)


@dataclass(frozen=True, kw_only=True)
class LibraryShape:
    """The shape of a library.

    With `packed` its relocations are RELR; `gap` unused bytes follow the program headers; with `note` it has a build
    id; with `stray` a dynamic symbol points into its GPU code; `unwrapped` containers at the end have no wrapper.
    """

    machine: int = AMD64
    packed: bool = False
    note: bool = True
    gap: int = 0
    stray: bool = False
    unwrapped: int = 0
    page: int = 0x1000
    align: int = 8


def make_entry(target: str, kernels: Sequence[str] = ("k",), *, size: int = 64, compressed: bool = False) -> bytes:
    """Return an entry for a target such as `sm_90a` or `ptx_80`; its code has kernels and at least `size` bytes."""
    kind, _, text = target.partition("_")
    variant = text[-1] if text[-1].isalpha() else ""
    sm = int(text.rstrip("af"))
    code = make_ptx(kernels, size) if kind == "ptx" else make_cubin(kernels, size)
    flags = {"": 0, "a": _ARCHITECTURE, "f": _FAMILY}[variant]
    stored, packed, unpacked = code, 0, 0
    if compressed:
        stored = zstandard.ZstdCompressor(level=1).compress(code)
        flags, packed, unpacked = flags | _ZSTD, len(stored), len(code)
    stored += bytes(-len(stored) % 8)
    number, major, minor = (1, 8, 4) if kind == "ptx" else (2, 1, 8)
    head = struct.pack(
        "<HHIQIIHHIIIQQQ", number, 0x101, 64, len(stored), packed, 0, minor, major, sm, 0, 0, flags, 0, unpacked
    )
    return head + stored


def make_ptx(kernels: Sequence[str], size: int) -> bytes:
    """Return PTX with some kernels."""
    text = ".version 8.4\n" + "".join(f".visible .entry {name}(\n)\n{{ ret; }}\n" for name in kernels)
    return text.encode().ljust(size, b" ")


def make_cubin(kernels: Sequence[str], size: int) -> bytes:
    """Return a cubin with some kernels."""
    strings, symbols = b"\0", bytes(24)
    for name in kernels:
        symbols += struct.pack("<IBBHQQ", len(strings), 0x12, 0x10, 1, 0, 8)
        strings += name.encode() + b"\0"
    code = bytes(index * 7 % 251 for index in range(size))
    at = 64 + 3 * 64
    rows = [bytes(64)]
    rows.append(struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at, len(symbols), 2, 0, 8, 24))
    rows.append(struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at + len(symbols), len(strings), 0, 0, 1, 0))
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 0
    )
    return head + b"".join(rows) + symbols + strings + code


def make_container(*entries: bytes) -> bytes:
    """Return a container of some entries."""
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, sum(map(len, entries))) + b"".join(entries)


class _Body:
    """A file that grows, and the sections in it: offset, size and address."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.sections: dict[str, tuple[int, int, int]] = {}
        self.shift = 0

    def add(self, name: str, content: bytes, align: int = 8) -> int:
        """Append a section and return its address."""
        self.data += bytes(-len(self.data) % align)
        offset = len(self.data)
        self.data += content
        self.sections[name] = (offset, len(content), offset + self.shift)
        return offset + self.shift


def make_library(containers: Sequence[bytes], shape: LibraryShape | None = None) -> bytes:
    """Return a library with some containers; its symbol `wrappers` is the address of their wrappers."""
    shape = shape or LibraryShape()
    programs = 5 if shape.note else 4
    body = _Body(64 + 56 * programs)
    body.add("gap", bytes(shape.gap), 1)
    if shape.note:
        body.add(".note.gnu.build-id", struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(range(20)))
    wrapped = len(containers) - shape.unwrapped
    strings = b"\0wrappers\0stray\0"
    symbols = body.add(".dynsym", bytes(24 * (3 if shape.stray else 2)))
    text = body.add(".dynstr", strings)
    count = 3 if shape.stray else 2
    table = body.add(".hash", struct.pack("<5I", 1, count, count - 1, 0, 0) + struct.pack("<I", 1) * (count - 2))
    relocations = body.add(".rela.dyn", bytes(16 if shape.packed else 24 * wrapped))
    body.add(".rodata", bytes(range(1, 200)))
    starts, section = [], b""
    for container in containers:
        section += bytes(-len(section) % shape.align)
        starts.append(len(section))
        section += container
    fatbin = body.add(".nv_fatbin", section, max(8, shape.align))
    body.add(".tail", bytes(range(250, 0, -1)) * 3)
    first_end = len(body.data)
    body.data += bytes(-len(body.data) % 16)
    data_start = len(body.data)
    body.shift = shape.page
    tags = [(4, table), (5, text), (6, symbols), (10, len(strings)), (11, 24)]
    if wrapped:
        tags += (
            [(36, relocations), (35, 16), (37, 8)] if shape.packed else [(7, relocations), (8, 24 * wrapped), (9, 24)]
        )
    dynamic = body.add(".dynamic", b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (0, 0)]))
    targets = [fatbin + start for start in starts[:wrapped]]
    pointers = targets if shape.packed else [0] * wrapped
    segment = b"".join(struct.pack("<IIQQ", _WRAPPER_MAGIC, 1, pointer, 0) for pointer in pointers)
    wrappers = body.add(".nvFatBinSegment", segment)
    body.data += bytes(range(100))
    data_end = len(body.data)
    _put(body, ".rela.dyn", _relocations(shape, wrappers, targets))
    rows = [bytes(24), struct.pack("<IBBHQQ", 1, 0x11, 0, 10, wrappers, len(segment))]
    rows += [struct.pack("<IBBHQQ", 10, 0x11, 0, 7, fatbin + 4, 8)] if shape.stray else []
    _put(body, ".dynsym", b"".join(rows))
    loads = [(1, 5, 0, 0, first_end, shape.page)]
    loads += [(1, 6, data_start, data_start + shape.page, data_end - data_start, shape.page)]
    loads += [(2, 6, dynamic - shape.page, dynamic, 16 * (len(tags) + 1), 8), (0x6474E551, 6, 0, 0, 0, 16)]
    if shape.note:
        offset, size, address = body.sections[".note.gnu.build-id"]
        loads.append((4, 4, offset, address, size, 4))
    table_rows = (struct.pack("<IIQQQQQQ", *row[:4], row[3], row[4], row[4], row[5]) for row in loads)
    body.data[64 : 64 + 56 * programs] = b"".join(table_rows)
    return _with_sections(body, shape, fatbin, starts, programs)


def _relocations(shape: LibraryShape, wrappers: int, targets: Sequence[int]) -> bytes:
    if not shape.packed:
        kind = _RELATIVE[shape.machine]
        places = (wrappers + 24 * index + 8 for index in range(len(targets)))
        return b"".join(struct.pack("<QQq", place, kind, target) for place, target in zip(places, targets, strict=True))
    # Every third word is a pointer: the first one by its address, the others by a bitmap of the words behind it.
    bits = sum(1 << (3 * index + 2) for index in range(len(targets) - 1))
    return struct.pack("<QQ", wrappers + 8, bits << 1 | 1)


def _put(body: _Body, name: str, content: bytes) -> None:
    offset = body.sections[name][0]
    body.data[offset : offset + len(content)] = content


def _with_sections(body: _Body, shape: LibraryShape, fatbin: int, starts: Sequence[int], programs: int) -> bytes:
    body.shift = 0
    locals_table = bytes(24)
    for start in starts:
        locals_table += struct.pack("<IBBHQQ", 1, 0x01, 0, _NAMES.index(".nv_fatbin"), fatbin + start, 16)
    body.add(".symtab", locals_table)
    body.add(".strtab", b"\0fatbinData\0", 1)
    names = "\0".join(_NAMES).encode() + b"\0"
    body.add(".shstrtab", names, 1)
    body.data += bytes(-len(body.data) % 8)
    at = len(body.data)
    kinds = {".note.gnu.build-id": 7, ".dynsym": 11, ".dynstr": 3, ".hash": 5, ".rela.dyn": 4, ".dynamic": 6}
    kinds |= {".symtab": 2, ".strtab": 3, ".shstrtab": 3}
    steps = {".dynsym": 24, ".symtab": 24, ".rela.dyn": 24, ".dynamic": 16}
    links = {".dynsym": 3, ".hash": 2, ".rela.dyn": 2, ".dynamic": 3, ".symtab": 12}
    for name in _NAMES:
        offset, size, address = body.sections.get(name, (0, 0, 0))
        loaded = name not in {"", ".symtab", ".strtab", ".shstrtab"} and size
        kind = kinds.get(name, 1) if size else 0
        if name == ".rela.dyn" and shape.packed and size:
            kind = 19
        align = {".nv_fatbin": max(8, shape.align), ".note.gnu.build-id": 4}.get(name, 8)
        body.data += struct.pack(
            "<IIQQQQIIQQ",
            names.index(f"{name}\0".encode()) if name else 0,
            kind,
            2 if loaded else 0,
            address if loaded else 0,
            offset,
            size,
            links.get(name, 0),
            {".dynsym": 1, ".symtab": 1 + len(starts)}.get(name, 0),
            align if size else 0,
            steps.get(name, 0),
        )
    head = struct.pack(
        "<HHIQQQIHHHHHH", 3, shape.machine, 1, 0, 64, at, 0, 64, 56, programs, 64, len(_NAMES), len(_NAMES) - 1
    )
    body.data[:64] = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + head
    return bytes(body.data)

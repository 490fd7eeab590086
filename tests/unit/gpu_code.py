"""Small GPU code of the real formats: cubins, entries with compressed payloads, containers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import lz4.block
import zstandard

if TYPE_CHECKING:
    from collections.abc import Sequence

LZ4, ZSTD, EXACT, FAMILY = 0x2000, 0x8000, 0x100000, 0x200000


def make_cubin(
    *kernels: str,
    sm: int = 80,
    abi: int = 8,
    accelerated: bool = False,
    options: str | None = None,
    others: Sequence[str] = ("device_function",),
    tables: int = 1,
    counted: bool = True,
) -> bytes:
    """Return a cubin: `kernels` can be launched, `others` not; `options` are those that ptxas notes.

    Without `counted`, the first section has the number of sections.
    """
    strings, symbols = b"\0", bytes(24)
    for name in (*kernels, *others):
        symbols += struct.pack("<IBBHQQ", len(strings), 0x12, 0x10 if name in kernels else 0, 1, 0, 8)
        strings += name.encode() + b"\0"
    note = f"NVIDIA Corp\0ptxas\0{options}\0".encode() if options else b""
    body = symbols + strings + note
    count = 3 + tables
    at = 64 + 64 * count
    rows = [struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0 if counted else count, 0, 0, 0, 0)]
    rows.append(struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at + len(symbols), len(strings), 0, 0, 1, 0))
    rows.append(struct.pack("<IIQQQQIIQQ", 0, 7, 0, 0, at + len(symbols) + len(strings), len(note), 0, 0, 4, 0))
    rows += [struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at, len(symbols), 1, 0, 8, 24)] * tables
    flags = (sm << 8 | (8 if accelerated else 0)) if abi >= 8 else sm << 16 | 0x500 | sm
    head = struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, 64, flags, 64, 0, 0, 64, count if counted else 0, 0)
    return bytes([0x7F, *b"ELF", 2, 1, 1, 65, abi]).ljust(16, b"\0") + head + b"".join(rows) + body


def make_ptx(*kernels: str, target: str = "sm_80") -> bytes:
    """Return PTX with some kernels and a function that is none."""
    text = f".version 8.4\n.target {target}\n.address_size 64\n.func helper()\n{{\n\tret;\n}}\n"
    return (text + "".join(f".visible .entry {name}(\n)\n{{\n\tret;\n}}\n" for name in kernels)).encode() + b"\0"


def make_entry(payload: bytes, sm: int = 80, *, kind: str = "sass", flags: int = 0, **changes: Any) -> bytes:
    """Return an entry of a container; `flags` choose the compression, `changes` are wrong numbers in its header."""
    packed, unpacked = payload, len(payload)
    if flags & ZSTD:
        packed = zstandard.compress(payload)
    elif flags & LZ4:
        packed = lz4.block.compress(payload, store_size=False)
    stored = packed + bytes(-len(packed) % 8)
    numbers = {"size": len(stored), "packed": len(packed), "unpacked": unpacked} | changes
    major, minor = (8, 4) if kind == "ptx" else (1, 8)
    head = struct.pack(
        "<HHIQIIHHIIIQQQ",
        {"ptx": 1, "sass": 2}[kind],
        0x101,
        64,
        numbers["size"],
        numbers["packed"],
        0,
        minor,
        major,
        sm,
        64,
        0,
        flags,
        0,
        numbers["unpacked"],
    )
    return head + stored


def make_container(*entries: bytes) -> bytes:
    """Return a container of some entries."""
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, sum(map(len, entries))) + b"".join(entries)

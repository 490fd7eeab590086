"""Small ELF files, fat binaries and wheels that hold them: what the audit's tests read."""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from factories import locked, make_lock, make_platform, make_wheel

from builder.audit import elf
from builder.audit.audit_context import AuditContext
from builder.audit.byte_source import Plain
from builder.audit.environment import Environment
from builder.audit.wheel_facts import assemble, compact, portions_of, read_members
from builder.audit.wheel_reader import listing
from builder.model.audits import BaseFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.model.audits import Binary, WheelFacts
    from builder.model.platforms import Platform

ARM64, AMD64 = 183, 62


@dataclass
class _Strings:
    """A string table that hands out offsets."""

    data: bytearray = field(default_factory=lambda: bytearray(1))

    def add(self, text: str) -> int:
        self.data += text.encode() + b"\0"
        return len(self.data) - len(text.encode()) - 1


def make_elf(
    *,
    needed: Sequence[str] = (),
    soname: str | None = None,
    rpath: str | None = None,
    runpath: str | None = None,
    defined: Iterable[Any] = (),
    undefined: Iterable[Any] = (),
    weak: Iterable[str] = (),
    versions: dict[str, Sequence[str]] | None = None,
    defines: Sequence[str] = (),
    machine: int = ARM64,
    kind: int = 3,
    fatbin: bytes = b"",
    sections: bool = True,
    hidden: bool = False,
    stack: int | None = None,
) -> bytes:
    """Return a shared library.

    `defined` and `undefined` are names or (name, version); `versions` are those needed of each file, `defines` those
    that the library has; `stack` are the flags of the stack that it asks for. With `hidden` definitions with a
    version answer to those only that ask for it.
    """
    strings = _Strings()
    needs = {file: list(names) for file, names in (versions or {}).items()}
    numbers = {name: index for index, name in enumerate([*defines, *(n for names in needs.values() for n in names)], 2)}
    symbols, marks = [bytes(24)], [0]
    rows = [(name, 1, 0, 1) for name in undefined] + [(name, 1, 0, 2) for name in weak]
    rows += [(name, 0, 7, 1) for name in defined]
    for row, is_undefined, _, binding in rows:
        name, version = row if isinstance(row, tuple) else (row, None)
        symbols.append(struct.pack("<IBBHQQ", strings.add(name), binding << 4, 0, 0 if is_undefined else 7, 64, 8))
        mark = numbers[version] if version else 1
        marks.append(mark | (0x8000 if version and hidden and not is_undefined else 0))
    dynamic = [(1, strings.add(name)) for name in needed]
    for tag, text in ((14, soname), (15, rpath), (29, runpath)):
        dynamic += [(tag, strings.add(text))] if text is not None else []
    verneed = _verneed(needs, numbers, strings)
    verdef = _verdef(defines, numbers, strings)
    return _assemble(
        symbols=b"".join(symbols),
        strings=bytes(strings.data),
        versym=struct.pack(f"<{len(marks)}H", *marks) if numbers else b"",
        verneed=(verneed, len(needs)),
        verdef=(verdef, len(defines)),
        dynamic=dynamic,
        machine=machine,
        kind=kind,
        fatbin=fatbin,
        sections=sections,
        stack=stack,
    )


def _verneed(needs: dict[str, list[str]], numbers: dict[str, int], strings: _Strings) -> bytes:
    data = b""
    for position, (file, names) in enumerate(needs.items(), 1):
        last = position == len(needs)
        size = 16 + 16 * len(names)
        data += struct.pack("<HHIII", 1, len(names), strings.add(file), 16, 0 if last else size)
        for place, name in enumerate(names, 1):
            following = 0 if place == len(names) else 16
            data += struct.pack("<IHHII", 0, 0, numbers[name], strings.add(name), following)
    return data


def _verdef(defines: Sequence[str], numbers: dict[str, int], strings: _Strings) -> bytes:
    data = b""
    for position, name in enumerate(defines, 1):
        data += struct.pack("<HHHHIII", 1, 0, numbers[name], 1, 0, 20, 0 if position == len(defines) else 28)
        data += struct.pack("<II", strings.add(name), 0)
    return data


def _assemble(
    *,
    symbols: bytes,
    strings: bytes,
    versym: bytes,
    verneed: tuple[bytes, int],
    verdef: tuple[bytes, int],
    dynamic: list[tuple[int, int]],
    machine: int,
    kind: int,
    fatbin: bytes,
    sections: bool,
    stack: int | None,
) -> bytes:
    body, places = bytearray(64 + 3 * 56), {}
    for name, part in (
        ("symbols", symbols),
        ("strings", strings),
        ("versym", versym),
        ("verneed", verneed[0]),
        ("verdef", verdef[0]),
    ):
        body += bytes(-len(body) % 8)
        places[name] = len(body)
        body += part
    rows = [*dynamic, (6, places["symbols"]), (5, places["strings"]), (10, len(strings))]
    # A hash table is how a file without sections says how many symbols it has.
    body += bytes(-len(body) % 8)
    rows.append((4, len(body)))
    body += struct.pack("<II", 0, len(symbols) // 24)
    if versym:
        rows.append((0x6FFFFFF0, places["versym"]))
    if verneed[1]:
        rows += [(0x6FFFFFFE, places["verneed"]), (0x6FFFFFFF, verneed[1])]
    if verdef[1]:
        rows += [(0x6FFFFFFC, places["verdef"]), (0x6FFFFFFD, verdef[1])]
    table = b"".join(struct.pack("<QQ", *row) for row in [*rows, (0, 0)])
    start = len(body)
    body += table
    loaded = len(body)
    header = [struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, loaded, loaded, 4096)]
    header.append(struct.pack("<IIQQQQQQ", 2, 6, start, start, start, len(table), len(table), 8))
    if stack is not None:
        header.append(struct.pack("<IIQQQQQQ", 0x6474E551, stack, 0, 0, 0, 0, 0, 16))
    body[64 : 64 + 56 * len(header)] = b"".join(header)
    at, count, index = 0, 0, 0
    if sections:
        at, count, index = _sections(body, places["symbols"], len(symbols), fatbin)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    body[:64] = identity + struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, at, 0, 64, 56, len(header), 64, count, index
    )
    return bytes(body)


def _sections(body: bytearray, symbols: int, size: int, fatbin: bytes) -> tuple[int, int, int]:
    body += bytes(-len(body) % 16)
    gpu = len(body)
    body += fatbin
    names = b"\0.dynsym\0.nv_fatbin\0.shstrtab\0"
    text = len(body)
    body += names
    body += bytes(-len(body) % 8)
    rows = [
        (0, 0, 0, 0, 0, 0),
        (1, 11, symbols, symbols, size, 24),
        (9, 1 if fatbin else 8, 0, gpu, len(fatbin), 0),
        (20, 3, 0, text, len(names), 0),
    ]
    at = len(body)
    for name, kind, address, offset, length, entry in rows:
        body += struct.pack("<IIQQQQIIQQ", name, kind, 0, address, offset, length, 0, 0, 8, entry)
    return at, len(rows), 3


def make_fatbin(*targets: tuple[str, int | str], isa: tuple[int, int] = (8, 4), payload: int = 40) -> bytes:
    """Return a fat binary: one container with an entry for each target, such as 80 or "90a"."""
    entries = b""
    for kind, target in targets:
        sm, flags = int(str(target).rstrip("af")), {"a": 0x100000, "f": 0x200000}.get(str(target)[-1], 0)
        major, minor = isa if kind == "ptx" else (8, 1)
        number = {"ptx": 1, "sass": 2}[kind]
        numbers = (number, 0x101, 64, payload, 0, 0, minor, major, sm, 0, 0, flags, 0, 0)
        entries += struct.pack("<HHIQIIHHIIIQQQ", *numbers)
        entries += bytes(payload)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def make_binary(path: str, **facts: Any) -> Binary:
    """Return what the audit keeps of a library that lies at a path."""
    return compact(path, elf.read_source(Plain(make_elf(**facts))))


LIBC = "/usr/lib/aarch64-linux-gnu"


def make_base(*extra: Binary, **changes: Any) -> BaseFacts:
    """Return a base image with a C and a C++ library, and what is given besides."""
    libc = make_binary(
        f"{LIBC}/libc.so.6",
        soname="libc.so.6",
        defined=[("malloc", "GLIBC_2.17"), ("arc4random", "GLIBC_2.36")],
        defines=["GLIBC_2.17", "GLIBC_2.36"],
    )
    stdcxx = make_binary(
        f"{LIBC}/libstdc++.so.6",
        soname="libstdc++.so.6",
        needed=["libc.so.6"],
        defined=[("_ZSt4cout", "GLIBCXX_3.4")],
        defines=["GLIBCXX_3.4", "GLIBCXX_3.4.30"],
    )
    facts: dict[str, Any] = {
        "binaries": (libc, stdcxx, *extra),
        "links": (("/lib", "usr/lib"),),
        "folders": ("/lib/aarch64-linux-gnu", LIBC, "/lib", "/usr/lib"),
        "distribution": ("debian-12",),
    }
    return BaseFacts(**(facts | changes))


def make_case(
    folder: Path,
    wheels: dict[str, dict[str, Any]],
    *,
    base: BaseFacts | None = None,
    platform: Platform | None = None,
    apt: tuple[str, ...] = (),
    unread: str | None = None,
    stand_in: str | None = None,
    tags: dict[str, str] | None = None,
    torch_cuda: str | None = None,
) -> AuditContext:
    """Return a case of real wheels, by name their files: bytes, or what `make_elf` takes."""
    made = []
    for name, files in wheels.items():
        contents = {path: make_elf(**what) if isinstance(what, dict) else what for path, what in files.items()}
        tag = (tags or {}).get(name, "cp311-cp311-manylinux_2_28_aarch64")
        made.append(make_wheel(folder, name, files=contents, tag=tag))
    ordered = make_lock(*(locked(path) for path in made)).wheels
    facts = {wheel.sha256: read_wheel(folder / wheel.filename) for wheel in ordered}
    platform = platform or make_platform()
    known = base if base is not None or unread else make_base(distribution=(platform.distribution,))
    environment = Environment(platform=platform, wheels=ordered, facts=facts, base=known, apt=apt)
    return AuditContext(
        environment=environment, unread=None if known else unread, stand_in=stand_in, torch_cuda=torch_cuda
    )


def read_wheel(path: Path) -> WheelFacts:
    """Return the facts of a wheel, read in this process."""
    found = listing(path)
    read = [read_members(path, members) for members in portions_of(found)]
    return assemble(path, found, (b for part in read for b in part[0]), (f for part in read for f in part[1]))


def layer(*entries: tuple[str, bytes | str]) -> bytes:
    """Return a tar: bytes are files, `-> x` links, `=> x` hard links, `/` folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
                continue
            kind, _, entry.linkname = content.partition(" ")
            entry.type = {"->": tarfile.SYMTYPE, "=>": tarfile.LNKTYPE, "/": tarfile.DIRTYPE}[kind]
            archive.addfile(entry)
    return buffer.getvalue()

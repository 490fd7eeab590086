"""From a wheel to its facts.

Symbols are 64-bit hashes, so that a stack's million names take ten megabytes and compare fast. The keys follow the
loader's rules for versions: a definition with a version matches symbols of that version or, unless it is hidden, of
none; one without a version matches all. Two names with the same key could hide a finding; among 10^6 symbols that
happens once in some 10^7 stacks.
"""

from __future__ import annotations

import re
import zlib
from array import array
from dataclasses import fields
from email.parser import Parser
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.audit import elf, fatbin, wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.model.audits import Binary, GpuCode, LoaderFacts, WheelFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from email.message import Message
    from pathlib import Path

    from builder.audit.byte_source import ByteSource
    from builder.audit.elf import Defined, ElfFacts, UndefinedSymbol
    from builder.audit.wheel_reader import Member, WheelMembers

# Part of the cached facts' file names: raise it when the same wheel gives other facts.
READER = 4
# Each file from this size on (bytes) gets a processor of its own.
_LARGE = 24 << 20
_INIT = b"PyInit_"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# Machines that are not processors: NVIDIA and AMD GPUs, and BPF. Files for them are data to the loader.
_DEVICES = frozenset({190, 224, 247})


def portions_of(listing: WheelMembers) -> list[tuple[Member, ...]]:
    """Return the files of a wheel in portions of work: large ones alone, the rest together."""
    large = [member for member in listing.members if member.size >= _LARGE]
    rest = tuple(member for member in listing.members if member.size < _LARGE)
    return [*((member,) for member in sorted(large, key=lambda m: -m.size)), rest]


def read_members(wheel: Path, members: Sequence[Member]) -> tuple[list[Binary], list[tuple[str, str]]]:
    """Read the ELF files among some files of a wheel; unreadable ones are returned as flaws.

    Raises:
        MalformedError: the wheel cannot be opened.
    """
    data = File(wheel)
    binaries: list[Binary] = []
    flaws: list[tuple[str, str]] = []
    for member in members:
        try:
            head = wheel_reader.head(data, member, elf.HEADER_SIZE)
            if not head.startswith(elf.MAGIC) or elf.read_header(head).machine in _DEVICES:
                continue
            binaries.append(read_binary(wheel_reader.source(data, member), member.path))
        except MalformedError as error:
            flaws.append((member.path, error.message))
    return binaries, flaws


def read_binary(source: ByteSource, path: str) -> Binary:
    """Read one ELF file.

    Raises:
        MalformedError: it is cut off or inconsistent.
    """
    facts = elf.read_source(source)
    gpu = fatbin.codes(source, facts)
    return compact(path, facts, tuple(GpuCode(c.target, c.isa, n) for c, n in sorted(gpu.items())))


def compact(path: str, facts: ElfFacts, gpu: tuple[GpuCode, ...] = ()) -> Binary:
    """Return the facts of an ELF file that the audit stores."""
    strong = [symbol for symbol in facts.undefined if not symbol.weak]
    inits = sorted(d.name[len(_INIT) :].decode("utf-8", "replace") for d in facts.defined if d.name.startswith(_INIT))
    return Binary(
        **{field.name: getattr(facts, field.name) for field in fields(LoaderFacts)},
        path=path,
        inits=tuple(inits),
        gpu=gpu,
        defines=defined_keys(facts.defined).tobytes(),
        wants=wanted_keys(strong).tobytes(),
        wanted=zlib.compress(b"\n".join(versioned_name(symbol) for symbol in strong), 1) if strong else b"",
    )


def assemble(
    wheel: Path, listing: WheelMembers, binaries: Iterable[Binary], flaws: Iterable[tuple[str, str]]
) -> WheelFacts:
    """Return the facts of a wheel from its parts."""
    data = File(wheel)
    members = [member for member in listing.members if "\n" not in member.path]
    text = "\n".join(member.path for member in members).encode("utf-8", "surrogateescape")
    keys = [key(member.path.encode("utf-8", "surrogateescape")) for member in members]
    flaws = [*listing.flaws, *flaws]
    texts = {name: _metadata(data, listing, name, flaws) for name in ("WHEEL", "METADATA")}
    return WheelFacts(
        tags=tuple(str(tag).strip() for tag in texts["WHEEL"].get_all("Tag", ())),
        requires=_requires(texts["METADATA"]),
        flaws=tuple(flaws),
        binaries=tuple(sorted(binaries, key=lambda b: b.path)),
        files=zlib.compress(text, 1),
        file_keys=array("Q", keys).tobytes(),
        contents=array("Q", [member.crc << 32 | member.size & 0xFFFFFFFF for member in members]).tobytes(),
    )


def _metadata(data: ByteSource, listing: WheelMembers, name: str, flaws: list[tuple[str, str]]) -> Message:
    try:
        text = wheel_reader.metadata(data, listing.members, name)
    except MalformedError as error:
        flaws.append((f"*.dist-info/{name}", error.message))
        text = ""
    return Parser().parsestr(text, headersonly=True)


def _requires(headers: Message) -> tuple[str, ...]:
    names = (_NAME.match(str(text).strip()) for text in headers.get_all("Requires-Dist", ()))
    return tuple(sorted({canonicalize_name(match[0]) for match in names if match}))


def key(name: bytes) -> int:
    """Return the key of a name."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


_cached_key = lru_cache(maxsize=100_000)(key)


def defined_keys(symbols: Iterable[Defined]) -> array[int]:
    """Return the keys that these definitions match."""
    names: set[bytes] = set()
    for name, version, hidden in symbols:
        if version is None:
            names.add(name + b"@")
            continue
        names.add(name + b"@" + version)
        if not hidden:
            names.add(name)
    return array("Q", [key(name) for name in names])


def wanted_keys(symbols: Iterable[UndefinedSymbol]) -> array[int]:
    """Return two keys for each symbol: any definition with one of them matches."""
    keys = array("Q")
    for name, version, _ in symbols:
        keys.append(_cached_key(name if version is None else name + b"@" + version))
        keys.append(_cached_key(name + b"@"))
    return keys


def versioned_name(symbol: UndefinedSymbol) -> bytes:
    """Return a symbol as `name@VERSION`, or the name alone."""
    return symbol.name if symbol.version is None else symbol.name + b"@" + symbol.version

"""Symbols as keys: 64-bit hashes, so that a stack's million of names is ten megabytes and compared in no time.

The loader's rules for versions are in how keys are made: a definition with a version answers to who wants that version
or, unless it is hidden, to who wants none; one without a version answers to everybody. Two names that share a key by
chance would hide a finding; among 10^6 symbols that happens once in some 10^7 stacks.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.audit.elf import Defined, UndefinedSymbol


def key(name: bytes) -> int:
    """Return the key of a name."""
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


_cached_key = lru_cache(maxsize=100_000)(key)


def defined_keys(symbols: Iterable[Defined]) -> array[int]:
    """Return the keys that these definitions answer to."""
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
    """Return two keys for each symbol: any definition that answers to one of them will do."""
    keys = array("Q")
    for name, version, _ in symbols:
        keys.append(_cached_key(name if version is None else name + b"@" + version))
        keys.append(_cached_key(name + b"@"))
    return keys


def shown(symbol: UndefinedSymbol) -> bytes:
    """Return a symbol as `name@VERSION`, or the name alone."""
    return symbol.name if symbol.version is None else symbol.name + b"@" + symbol.version

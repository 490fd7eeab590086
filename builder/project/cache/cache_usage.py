"""The records of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One entry of the cache, removed as a whole; `size` in bytes, `used` in seconds since the epoch.

    `frees` are the bytes that removal frees: files that a rendered cell links to stay. `content` is the sha256 of the
    entry's content, None for leftovers of a process. `locked`: a lock of this project needs it.
    """

    kind: str
    path: Path
    content: str | None
    size: int
    frees: int
    used: float
    locked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class KindSummary:
    """The entries of one kind, and those that this project's locks need; sizes in bytes."""

    kind: str
    entries: int
    size: int
    locked_entries: int
    locked_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """The removed entries of a kind: their number, their bytes, and the bytes freed."""

    kind: str
    entries: int
    size: int
    frees: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """The result of a prune. `busy`: another jbuild was running, so images stayed; `skipped` entries were in use."""

    kinds: tuple[Pruned, ...]
    busy: bool
    skipped: int

"""The records of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """One thing in the cache that goes as a whole; `size` in bytes, `used` in seconds since the epoch.

    `frees` are the bytes that the disk gets back: files that a rendered cell links to stay with it. `content` is the
    sha256 that the entry is kept under, None for what a process left behind. `locked`: a lock of this project needs it.
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
    """How much there is of one kind, and how much of that this project's locks need; sizes in bytes."""

    kind: str
    entries: int
    size: int
    locked_entries: int
    locked_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What went, or would go: how many entries of a kind, their bytes, and the bytes that the disk gets back."""

    kind: str
    entries: int
    size: int
    frees: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """What a prune did. `busy`: another jbuild works, so images were left alone; `skipped` entries were in use."""

    kinds: tuple[Pruned, ...]
    busy: bool
    skipped: int

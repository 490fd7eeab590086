"""The cache, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.cache.model import KindSummary, PruneResult

    Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def contents(cache: Path, kinds: Sequence[KindSummary], table: Table) -> str:
    """Return what the cache holds, kind by kind."""
    rows = [
        (
            kind.kind,
            str(kind.entries or ""),
            size_of(kind.size),
            str(kind.locked_entries or ""),
            size_of(kind.locked_size) if kind.locked_entries else "",
        )
        for kind in kinds
        if kind.size or kind.entries
    ]
    total = size_of(sum(kind.size for kind in kinds))
    locked = size_of(sum(kind.locked_size for kind in kinds))
    rows.append(("in all", "", total, "", locked))
    return f"{cache}\n" + table(("kind", "entries", "size", "this project's", ""), rows)


def pruned(result: PruneResult, *, dry_run: bool, table: Table) -> str:
    """Return what went, or would go."""
    rows = [
        (kind.kind, str(kind.entries or ""), size_of(kind.size), size_of(kind.frees))
        for kind in result.kinds
        if kind.entries or kind.size
    ]
    verb = "would go" if dry_run else "removed"
    lines = [table((verb, "entries", "size", "frees"), rows)] if rows else ["nothing is old enough to go"]
    if result.busy:
        lines.append("another jbuild works: images, and whatever was used within a day, were left alone")
    if result.skipped:
        lines.append(f"{result.skipped} entries were in use and stay")
    freed = size_of(sum(kind.frees for kind in result.kinds))
    if rows:
        lines.append(f"{'it would free' if dry_run else 'freed'} {freed}")
    return "\n".join(lines)


def size_of(size: int) -> str:
    """Return bytes as people compare them."""
    for unit, bytes_of, digits in (("GB", 1e9, 2), ("MB", 1e6, 1)):
        if size >= bytes_of:
            return f"{size / bytes_of:.{digits}f} {unit}"
    return f"{size / 1e3:.1f} kB" if size else "0.0 MB"

"""`jbuild cache info` and `jbuild cache prune`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from builder.cli.cell_selection import session_verb
from builder.cli.results import show
from builder.cli.verb_options import verb_group
from builder.errors import LockError
from builder.host import records
from builder.host.paths import check_cache
from builder.host.session import Session
from builder.host.units import size_of
from builder.project.cache.cache_usage import KindSummary, PruneResult
from builder.project.cache.contents import entries, summarise
from builder.project.cache.prune import prune
from builder.project.cache.references import references

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheInfo:
    """Contents of the cache, by kind; sizes in bytes."""

    cache: str
    kinds: tuple[KindSummary, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePruned:
    """Entries that were removed, or with `dry_run` would be; sizes in bytes."""

    pruned: PruneResult = field(metadata=records.FLAT)
    dry_run: bool
    frees: int


CacheResult = CacheInfo | CachePruned


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
    if not match:
        message = f"{value!r} is not an age: write a number and s, m, h, d or w, such as 30d"
        raise click.BadParameter(message, context, parameter)
    return float(int(match[1]) * _SECONDS[match[2]])


command = verb_group("cache", "Show or prune the cache.")


@session_verb("info", group=command)
def info(session: Session) -> None:
    """Show the size of the cache by kind, and how much of it the locks of this project need."""
    workspace = session.workspace
    check_cache(workspace)

    def unreadable(error: LockError) -> None:
        session.console.warn(f"{error.where}: {error.message}; its entries do not count as this project's")

    kinds = summarise(entries(workspace, references(workspace, unreadable)), workspace)
    result = CacheInfo(cache=str(workspace.cache), kinds=tuple(kinds))
    show(result, contents(workspace.cache, kinds, session.console.table), session.console)


@session_verb(
    "prune",
    click.option(
        "--older-than",
        callback=_seconds,
        default="30d",
        show_default=True,
        metavar="AGE",
        help="Remove entries that were last used before: 12h, 30d, 8w.",
    ),
    click.option("--keep-locked", is_flag=True, help="Keep entries that locks and built cells of this project need."),
    click.option("--dry-run", is_flag=True, help="Show the entries that would be removed, and remove none."),
    group=command,
)
def prune_command(session: Session, older_than: float, keep_locked: bool, dry_run: bool) -> None:
    """Remove entries of the cache that have not been used for a while. jbuild fetches or builds them again when needed.

    While another jbuild runs, images and entries used within a day stay. The engine of scripts/engine and substitute
    models are never removed.
    """
    removed = prune(session, older_than_s=older_than, keep_locked=keep_locked, dry_run=dry_run)
    result = CachePruned(pruned=removed, dry_run=dry_run, frees=sum(kind.frees for kind in removed.kinds))
    show(result, pruned(removed, dry_run=dry_run, table=session.console.table), session.console)


def contents(cache: Path, kinds: Sequence[KindSummary], table: Table) -> str:
    """Return the contents of the cache as text, kind by kind."""
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
    """Return the removed entries as text."""
    rows = [
        (kind.kind, str(kind.entries or ""), size_of(kind.size), size_of(kind.frees))
        for kind in result.kinds
        if kind.entries or kind.size
    ]
    verb = "would be removed" if dry_run else "removed"
    lines = [table((verb, "entries", "size", "frees"), rows)] if rows else ["nothing is old enough to be removed"]
    if result.busy:
        lines.append("another jbuild runs: images and entries used within a day stay")
    if result.skipped:
        lines.append(f"{result.skipped} entries were in use and stay")
    freed = size_of(sum(kind.frees for kind in result.kinds))
    if rows:
        lines.append(f"{'it would free' if dry_run else 'freed'} {freed}")
    return "\n".join(lines)

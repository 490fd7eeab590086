"""`jbuild doctor`, `jbuild cache info` and `prune`: what this machine lacks, and what its cache holds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from builder.cli.cell_selection import session_verb
from builder.cli.results import show, table, without_controls
from builder.cli.verb_options import complete_recipes, verb_group
from builder.errors import EngineError, LockError, UsageError
from builder.host import leftovers, records
from builder.host.paths import check_cache
from builder.host.session import Session
from builder.host.units import size_of
from builder.host.wording import suggest
from builder.project.cache.contents import KindSummary, entries, references, summarise
from builder.project.cache.prune import PRUNABLE, PruneResult, prune
from builder.project.doctor.check_table import Check
from builder.project.doctor.examination import AppliedFix, apply_fixes, doctor_context, examine
from builder.recipe.find import find
from builder.recipe.load import load

_WORDS = {"ok": "ok", "warning": "warning", "error": "error", "not applicable": "n/a"}
_INDENT = " " * 23
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorResult:
    """Checks of this machine, and the fixes that were run; `usable`: no check found an error."""

    usable: bool
    checks: tuple[Check, ...]
    mended: tuple[AppliedFix, ...]


@session_verb(
    "doctor",
    click.argument("recipe", required=False, shell_complete=complete_recipes),
    click.option("--fix", is_flag=True, help="Run the safe fixes, then check again."),
)
def examine_machine(session: Session, recipe: str | None, fix: bool) -> int:
    """Check whether this machine can build images, or the images of RECIPE, and show the fix for each problem.

    On a Jetson and with the jbuild of a bundle, without RECIPE and outside a project, it checks only whether this
    machine can load and run images.
    """
    loaded = load(find(recipe, session.workspace.recipe_folders)) if recipe else None
    leftovers.clear(session)
    context = doctor_context(session, loaded)
    checks = list(examine(context))
    fixes = apply_fixes(checks, session.console) if fix else []
    if fixes:
        checks = list(examine(doctor_context(session, loaded)))
    usable = all(check.state != "error" for check in checks)
    result = DoctorResult(usable=usable, checks=tuple(checks), mended=tuple(fixes))
    show(result, checks_text(checks, fixes, builds=context.builds), session.console)
    return 0 if usable else EngineError.exit_code


def checks_text(checks: Sequence[Check], fixes: Sequence[AppliedFix], *, builds: bool = True) -> str:
    """Return the checks as text; `builds`: of a machine that builds images."""
    lines: list[str] = []
    for before, check in zip((None, *checks), checks, strict=False):
        lines += _check(check, again=before is not None and before.name == check.name)
    for fix in fixes:
        lines.append(f"fixed: {fix.command}" if fix.failure is None else f"not fixed: {fix.command}: {fix.failure}")
    return "\n".join(map(without_controls, [*lines, verdict(checks, builds=builds)]))


def verdict(checks: Sequence[Check], *, builds: bool = True) -> str:
    """Return the last line: whether this machine can build images, or run them, and the checks that failed."""
    wrong = list(dict.fromkeys(check.name for check in checks if check.state == "error"))
    doubtful = list(dict.fromkeys(check.name for check in checks if check.state == "warning"))
    fixable = any(check.fix for check in checks if check.state in {"warning", "error"})
    answer = (
        f"to be fixed: {', '.join(wrong)}"
        if wrong
        else f"this machine can {'build' if builds else 'load and run'} images"
    )
    more = f"; warnings: {', '.join(doubtful)}" if doubtful else ""
    return answer + more + ("; `jbuild doctor --fix` runs the safe commands" if fixable else "")


def _check(check: Check, *, again: bool) -> Iterator[str]:
    """Yield the lines of a check; a second one of the same name does not repeat its reason."""
    yield f"{_WORDS[check.state]:<8} {check.name:<13} {check.found}"
    if check.state in {"warning", "error"}:
        if not again:
            yield f"{_INDENT}why: {check.why}"
        yield f"{_INDENT}fix: {check.mend}"
        if check.fix:
            yield f"{_INDENT}--fix runs: {shlex.join(check.fix)}"


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


def _kinds(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    del context, parameter
    for name in value:
        if name not in PRUNABLE:
            raise UsageError(
                f"{name!r} is not a kind of entries", where="--only", hint=suggest(name, PRUNABLE, noun="kinds")
            )
    return value


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
    show(result, _contents(workspace.cache, kinds), session.console)


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
    click.option(
        "--only",
        multiple=True,
        callback=_kinds,
        metavar="KIND",
        help="Remove entries of this kind only, such as images; can be repeated. `jbuild cache info` lists the kinds.",
    ),
    click.option("--dry-run", is_flag=True, help="Show the entries that would be removed, and remove none."),
    group=command,
)
def prune_command(session: Session, older_than: float, keep_locked: bool, only: tuple[str, ...], dry_run: bool) -> None:
    """Remove entries of the cache that have not been used for a while. jbuild fetches or builds them again when needed.

    While another jbuild runs, images and entries used within the last day stay. Never removes generated stand-ins
    or the data of the engine of scripts/engine.
    """
    check_cache(session.workspace)
    leftovers.clear(session, dry_run=dry_run)
    removed = prune(session, older_than_s=older_than, keep_locked=keep_locked, dry_run=dry_run, only=only or PRUNABLE)
    result = CachePruned(pruned=removed, dry_run=dry_run, frees=sum(kind.frees for kind in removed.kinds))
    show(result, _pruned(removed, dry_run=dry_run), session.console)


def _contents(cache: Path, kinds: Sequence[KindSummary]) -> str:
    rows = [
        (kind.kind, str(kind.entries or ""), size_of(kind.size), *_locked(kind))
        for kind in kinds
        if kind.size or kind.entries
    ]
    total = size_of(sum(kind.size for kind in kinds))
    locked = size_of(sum(kind.locked_size for kind in kinds))
    rows.append(("in all", "", total, "", locked))
    return f"{cache}\n" + table(("kind", "entries", "size", "this project's", ""), rows)


def _locked(kind: KindSummary) -> tuple[str, str]:
    return (str(kind.locked_entries), size_of(kind.locked_size)) if kind.locked_entries else ("", "")


def _pruned(result: PruneResult, *, dry_run: bool) -> str:
    rows = [
        (kind.kind, str(kind.entries or ""), size_of(kind.size), size_of(kind.frees))
        for kind in result.kinds
        if kind.entries or kind.size
    ]
    verb = "would be removed" if dry_run else "removed"
    lines = [table((verb, "entries", "size", "frees"), rows)] if rows else ["there is nothing to remove"]
    if result.busy:
        lines.append("another jbuild process runs: all images stay, and so do other entries used within a day")
    if result.skipped:
        lines.append(f"{result.skipped} entries were in use and stay")
    if rows:
        freed = size_of(sum(kind.frees for kind in result.kinds))
        lines.append(f"{'it would free' if dry_run else 'freed'} {freed}")
    return "\n".join(lines)

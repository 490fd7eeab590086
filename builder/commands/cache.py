"""`jbuild cache info` and `jbuild cache prune`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from builder import records
from builder.cache.contents import entries, summarise
from builder.cache.prune import prune
from builder.cache.references import references
from builder.commands.common import as_json, help_without_verb, open_session
from builder.report.cache import contents, pruned
from builder.workspace import check_cache

if TYPE_CHECKING:
    from builder.errors import LockError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", value)
    if not match:
        message = f"{value!r} is no age: write a number and s, m, h, d or w, such as 30d"
        raise click.BadParameter(message, context, parameter)
    return float(int(match[1]) * _SECONDS[match[2]])


@click.group("cache", epilog="Each of them has --json.", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Show what the cache holds, and remove what nobody has used for a while."""
    help_without_verb(context)


@command.command("info")
@as_json
def info(as_json: bool) -> None:
    """Show how much of each kind the cache holds, and how much of that the locks of this project need."""
    session = open_session(as_json=as_json)
    workspace = session.workspace
    check_cache(workspace)

    def unreadable(error: LockError) -> None:
        session.console.warn(f"{error.where}: {error.message}; what it needs is not counted as this project's")

    kinds = summarise(entries(workspace, references(workspace, unreadable)), workspace)
    described = [records.plain(kind) for kind in kinds]
    session.console.result(
        {"cache": str(workspace.cache), "kinds": described}, contents(workspace.cache, kinds, session.console.table)
    )


@command.command("prune")
@click.option(
    "--older-than",
    callback=_seconds,
    default="30d",
    show_default=True,
    metavar="AGE",
    help="What was last used before then: 12h, 30d, 8w.",
)
@click.option("--keep-locked", is_flag=True, help="Keep what the locks and built cells of this project need.")
@click.option("--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@as_json
def prune_command(older_than: float, keep_locked: bool, dry_run: bool, as_json: bool) -> None:
    """Remove from the cache what was not used for a while. Whatever is missing later is fetched or made again.

    While another jbuild works, images stay, and so does everything used within a day. The engine of scripts/engine and
    the stand-ins stay always.
    """
    session = open_session(as_json=as_json)
    result = prune(session, older_than_s=older_than, keep_locked=keep_locked, dry_run=dry_run)
    described = {**records.plain(result), "dry_run": dry_run, "frees": sum(kind.frees for kind in result.kinds)}
    session.console.result(described, pruned(result, dry_run=dry_run, table=session.console.table))

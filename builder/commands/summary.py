"""`jbuild summary`."""

from __future__ import annotations

from pathlib import Path

import click

from builder import records
from builder.commands.common import as_json
from builder.console import Console
from builder.errors import CellsFailedError
from builder.report.github import markdown
from builder.report.outcome import FAILED, counted, outcomes, text_rows

_FILE = click.Path(path_type=Path, dir_okay=False)
_HEADINGS = ("recipe", "cell", "status", "level", "size", "times", "")


@click.command("summary")
@click.argument("results", nargs=-1, type=_FILE, metavar="[RESULT...]")
@click.option(
    "--plan", type=_FILE, help="What `jbuild matrix --format github --output FILE` wrote: what was to be done."
)
@click.option("--format", "form", type=click.Choice(("text", "github")), default="text", show_default=True)
@as_json
def command(results: tuple[Path, ...], plan: Path | None, form: str, as_json: bool) -> int:
    """Sum up what runs in several places made: the files that `jbuild recipe --result FILE` wrote there.

    Ends with exit code 13 if a cell failed, or was planned and has no result.
    """
    console = Console(as_json=as_json)
    if not results and plan is None:
        raise click.UsageError("name the results of runs, or a --plan")
    found = outcomes(results, plan)
    table = markdown(found) if form == "github" else f"{console.table(_HEADINGS, text_rows(found))}\n{counted(found)}"
    console.result({"cells": [records.plain(one) for one in found]}, table)
    return CellsFailedError.exit_code if any(one.status in FAILED for one in found) else 0

"""`jbuild summary`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from builder import records
from builder.ci.model import CiPlan
from builder.cli.options import json_option
from builder.cli.results import show
from builder.cli.views.summary_view import FAILED, Outcome, SummaryResult, counted, markdown, text_rows
from builder.console import Console
from builder.errors import CellsFailedError, UsageError

_FILE = click.Path(path_type=Path, dir_okay=False)
_HEADINGS = ("recipe", "cell", "status", "level", "size", "times", "")
_MISSING = "no result: the job was cancelled, or ended before this cell"


@click.command("summary")
@click.argument("results", nargs=-1, type=_FILE, metavar="[RESULT...]")
@click.option(
    "--plan", type=_FILE, help="Plan of all cells: the file of `jbuild matrix --format github --output FILE`."
)
@click.option("--format", "form", type=click.Choice(("text", "github")), default="text", show_default=True)
@json_option
def command(results: tuple[Path, ...], plan: Path | None, form: str, as_json: bool) -> int:
    """Merge results of several machines: the files of `jbuild recipe --result FILE`.

    Ends with exit code 13 if a cell failed, or was planned and has no result.
    """
    console = Console(as_json=as_json)
    if not results and plan is None:
        raise click.UsageError("name results of runs, or a --plan")
    cells = read_outcomes(results, plan)
    table = f"{console.table(_HEADINGS, text_rows(cells))}\n{counted(cells)}"
    show(SummaryResult(cells=cells), markdown(cells) if form == "github" else table, console)
    return CellsFailedError.exit_code if any(cell.status in FAILED for cell in cells) else 0


def read_outcomes(results: Iterable[Path], plan: Path | None) -> tuple[Outcome, ...]:
    """Return the outcomes of all cells: those of the plan in its order, then other cells of the results.

    Raises:
        UsageError: a file is not a plan, or not the result of a run.
    """
    outcomes = {(cell.recipe, cell.cell): cell for path in results for cell in _of_result(path)}
    if plan is None:
        return tuple(outcomes.values())
    planned = _plan(plan)
    included = [
        outcomes.pop(
            (entry.recipe, entry.cell),
            Outcome(recipe=entry.recipe, cell=entry.cell, status="missing", reason=_MISSING),
        )
        for entry in planned.include
    ]
    skipped = [
        Outcome(recipe=cell.recipe, cell=cell.cell, status=cell.status, reason=cell.reason) for cell in planned.skipped
    ]
    return (*included, *outcomes.values(), *skipped)


def _plan(path: Path) -> CiPlan:
    try:
        return records.decode(json.loads(path.read_text(encoding="utf-8")), CiPlan)  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        hint = "`jbuild matrix RECIPE --format github --output FILE` writes one"
        raise UsageError("not a plan of jobs", where=str(path), hint=hint) from error


def _of_result(path: Path) -> Iterator[Outcome]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        yield from [_outcome(str(result["recipe"]), cell) for cell in result["cells"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = "`jbuild recipe RECIPE --result FILE` writes one"
        raise UsageError("not the result of a run", where=str(path), hint=hint) from error


def _outcome(recipe: str, cell: dict[str, Any]) -> Outcome:
    if cell["status"] == "impossible":
        return Outcome(recipe=recipe, cell=cell["cell"], status="impossible", reason=cell["reason"])
    error, verdict = cell["error"] or {}, cell["verdict"] or {}
    publication = cell["publication"] or {"registries": []}
    return Outcome(
        recipe=recipe,
        cell=cell["cell"],
        status=cell["status"],
        reason=error.get("message") or "",
        level=verdict.get("level"),
        size=cell["size"],
        answers=tuple(answer["text"] for answer in verdict.get("answers", ())),
        digest=cell["digest"],
        tags=tuple(
            f"{registry['repository']}:{tag['name']}"
            for registry in publication["registries"]
            for tag in registry["tags"]
        ),
        stages={name: stage["seconds"] for name, stage in cell["stages"].items() if stage["ran"]},
        hint=error.get("hint"),
        log=error.get("log"),
    )

"""`jbuild summary`."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from builder.cli.results import show, table
from builder.cli.verb_options import FILE, json_option
from builder.errors import CellsFailedError, UsageError
from builder.host import records
from builder.host.console import Console
from builder.host.units import duration, moment
from builder.host.wording import printable
from builder.project.ci.github_jobs import CiPlan, run_address

_HEADINGS = ("recipe", "cell", "status", "level", "size", "times", "")
_MISSING = "no result: the job was cancelled, or ended before this cell"
# Statuses that make a summary a failure; the others are `done`, `unchanged` and `impossible`.
FAILED = ("failed", "missing")
_SIGNS = {"done": "✅", "unchanged": "✅", "failed": "❌", "missing": "❌", "impossible": "⚪"}
_COLUMNS = ("recipe", "cell", "status", "reason", "size", "level", "answer", "times")
_LOG_LINES = 25
_MOST_LOGS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome of one cell.

    `status` is `done`, `unchanged`, `failed`, `missing` (planned, without a result) or `impossible`.
    `size` is in bytes, compressed; `stages` are seconds of those that ran; `log` is the tail of the failure.
    `failed_at` is the stage that failed, `ended` the end of the cell's run (UTC, ISO 8601).
    """

    recipe: str
    cell: str
    status: str
    reason: str = ""
    level: str | None = None
    size: int | None = None
    answers: tuple[str, ...] = ()
    digest: str | None = None
    tags: tuple[str, ...] = ()
    stages: dict[str, float] = field(default_factory=dict)
    hint: str | None = None
    log: str | None = None
    failed_at: str | None = None
    ended: str | None = None

    @property
    def cause(self) -> str:
        """The reason, with the stage that failed and the time."""
        if not self.failed_at:
            return self.reason
        when = f", {moment(self.ended)}" if self.ended else ""
        return f"at {self.failed_at}{when}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryResult:
    """Outcomes of the cells of a plan, from the results of several machines."""

    cells: tuple[Outcome, ...]


@click.command("summary")
@click.argument("results", nargs=-1, type=FILE, metavar="[RESULT...]")
@click.option("--plan", type=FILE, help="Plan of all cells: the file of `jbuild matrix --format github --output FILE`.")
@click.option("--format", "form", type=click.Choice(("text", "github")), default="text", show_default=True)
@json_option
def command(results: tuple[Path, ...], plan: Path | None, form: str, as_json: bool) -> int:
    """Merge results of several machines: the files of `jbuild recipe --result FILE`.

    Exits with code 13 if a cell failed, or was planned and has no result.
    """
    console = Console(as_json=as_json)
    if not results and plan is None:
        raise click.UsageError("name result files, or a --plan")
    cells = read_outcomes(results, plan)
    text = (
        markdown(cells, run_address(os.environ))
        if form == "github"
        else f"{table(_HEADINGS, map(_text_row, cells))}\n{counted(cells)}"
    )
    show(SummaryResult(cells=cells), text, console)
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
    missing = {
        (cell.recipe, cell.cell): Outcome(recipe=cell.recipe, cell=cell.cell, status="missing", reason=_MISSING)
        for cell in planned.include
    }
    skipped = [
        Outcome(recipe=cell.recipe, cell=cell.cell, status=cell.status, reason=cell.reason) for cell in planned.skipped
    ]
    return (*(missing | outcomes).values(), *skipped)


def _plan(path: Path) -> CiPlan:
    try:
        return records.from_json(json.loads(path.read_text(encoding="utf-8")), CiPlan)  # type: ignore[no-any-return]
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
    registries = cell["publication"]["registries"] if cell["publication"] else ()
    return Outcome(
        recipe=recipe,
        cell=cell["cell"],
        status=cell["status"],
        reason=error.get("message") or "",
        level=verdict.get("level"),
        size=cell["size"],
        answers=tuple(answer["text"] for answer in verdict.get("answers", ())),
        digest=cell["digest"],
        tags=tuple(f"{place['repository']}:{tag['name']}" for place in registries for tag in place["tags"]),
        stages={name: stage["seconds"] for name, stage in cell["stages"].items() if stage["ran"]},
        hint=error.get("hint"),
        log=error.get("log"),
        # Results of an older jbuild lack these two.
        failed_at=cell.get("failed_at"),
        ended=cell.get("ended"),
    )


def counted(outcomes: Sequence[Outcome]) -> str:
    """Return the number of cells with each status."""
    counts = Counter(outcome.status for outcome in outcomes)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "no cells"


def _text_row(outcome: Outcome) -> tuple[str, ...]:
    first = (outcome.recipe, outcome.cell, outcome.status, outcome.level or "", _size(outcome), _times(outcome))
    return (*first, printable(outcome.cause or _answers(outcome)))


def _size(outcome: Outcome) -> str:
    return "" if outcome.size is None else f"{outcome.size / 1e6:.0f} MB"


def _times(outcome: Outcome) -> str:
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in outcome.stages.items())
    return f"{duration(sum(outcome.stages.values()))} ({stages})" if stages else ""


def _answers(outcome: Outcome) -> str:
    return "; ".join(" ".join(answer.split()) for answer in outcome.answers)


def markdown(outcomes: Sequence[Outcome], address: str | None = None) -> str:
    """Return a table of the cells, with the logs of failures and the tags below it.

    `address` is the page with the jobs of the run; a failure links to it.
    """
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, outcomes)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    failed = [cell for cell in outcomes if cell.status in FAILED]
    failures = [_failure(cell) for cell in failed if cell.hint or cell.log]
    left_out = len(failures) - _MOST_LOGS
    more = [f"and {left_out} more; see the logs of their jobs"] if left_out > 0 else []
    jobs = [f"[The jobs of this run, with their logs]({address})"] if failed and address else []
    tags = [f"- {plain(tag)} is {plain(cell.digest or '')}" for cell in outcomes for tag in cell.tags]
    section = ["### Tags", "\n".join(tags)] if tags else []
    return "\n\n".join([f"## jbuild: {counted(outcomes)}", table, *jobs, *failures[:_MOST_LOGS], *more, *section])


def plain(text: str) -> str:
    """Return untrusted text as Markdown that shows it as it is: characters of markup become references."""
    return "".join(c if c.isalnum() or c in " -" else f"&#{ord(c)};" for c in printable(text))


def _row(outcome: Outcome) -> tuple[str, ...]:
    status = f"{_SIGNS.get(outcome.status, '')} {outcome.status}"
    first = (plain(outcome.recipe), plain(outcome.cell), status, plain(outcome.cause))
    return (*first, _size(outcome), plain(outcome.level or ""), plain(_answers(outcome)), plain(_times(outcome)))


def _failure(outcome: Outcome) -> str:
    lines = (outcome.log or "").rstrip().splitlines()[-_LOG_LINES:]
    log = "\n".join(html.escape("".join(c for c in line if c.isprintable() or c == "\t")) for line in lines)
    title = f"<summary>{plain(outcome.recipe)} {plain(outcome.cell)}: {plain(outcome.cause)}</summary>"
    hint = f"Next: {plain(outcome.hint)}\n" if outcome.hint else ""
    # A blank line would end the HTML block, and the rest would be Markdown.
    block = "<pre>" + "\n".join(line or " " for line in log.split("\n")) + "</pre>\n" if log else ""
    return f"<details>{title}\n\n{hint}\n{block}</details>"

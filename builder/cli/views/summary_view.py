"""Outcomes of cells: their result, a table for terminals, and Markdown for GitHub's job summary."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from builder.host.units import duration
from builder.tomldoc import shown

# Statuses that make a summary a failure; the others are `done`, `unchanged` and `impossible`.
FAILED = ("failed", "missing")
_SIGNS = {"done": "✅", "unchanged": "✅", "failed": "❌", "missing": "❌", "impossible": "⚪"}
_HEADINGS = ("recipe", "cell", "status", "reason", "size", "level", "answer", "times")
_LOG_LINES = 25
_MOST_LOGS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The outcome of one cell.

    `status` is `done`, `unchanged`, `failed`, `missing` (planned, without a result) or `impossible`.
    `size` is in bytes, compressed; `stages` are seconds of those that ran; `log` is the tail of the failure.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryResult:
    """Outcomes of the cells of a plan, from the results of several machines."""

    cells: tuple[Outcome, ...]


def counted(outcomes: Sequence[Outcome]) -> str:
    """Return the number of cells with each status."""
    statuses = [outcome.status for outcome in outcomes]
    return ", ".join(f"{statuses.count(word)} {word}" for word in dict.fromkeys(statuses)) or "no cells"


def text_rows(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    """Return rows for a table on a terminal."""
    return [
        (
            outcome.recipe,
            outcome.cell,
            outcome.status,
            outcome.level or "",
            _size(outcome),
            _times(outcome),
            shown(outcome.reason or _answers(outcome)),
        )
        for outcome in outcomes
    ]


def _size(outcome: Outcome) -> str:
    return "" if outcome.size is None else f"{outcome.size / 1e6:.0f} MB"


def _times(outcome: Outcome) -> str:
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in outcome.stages.items())
    return f"{duration(sum(outcome.stages.values()))} ({stages})" if stages else ""


def _answers(outcome: Outcome) -> str:
    return "; ".join(" ".join(answer.split()) for answer in outcome.answers)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return a table of the cells, with the logs of failures and the tags below it."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *map(_row, outcomes)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    failures = [_failure(cell) for cell in outcomes if cell.status in FAILED and (cell.hint or cell.log)]
    left_out = len(failures) - _MOST_LOGS
    more = [f"and {left_out} more; see the logs of their jobs"] if left_out > 0 else []
    tags = [f"- {plain(tag)} is {plain(cell.digest or '')}" for cell in outcomes for tag in cell.tags]
    section = ["### Tags", "\n".join(tags)] if tags else []
    return "\n\n".join([f"## jbuild: {counted(outcomes)}", table, *failures[:_MOST_LOGS], *more, *section])


def plain(text: str) -> str:
    """Return untrusted text as Markdown that shows it as it is: characters of markup become references."""
    return "".join(c if c.isalnum() or c in " -" else f"&#{ord(c)};" for c in shown(text))


def _row(outcome: Outcome) -> tuple[str, ...]:
    status = f"{_SIGNS.get(outcome.status, '')} {outcome.status}"
    first = (plain(outcome.recipe), plain(outcome.cell), status, plain(outcome.reason))
    return (*first, _size(outcome), plain(outcome.level or ""), plain(_answers(outcome)), plain(_times(outcome)))


def _failure(outcome: Outcome) -> str:
    lines = (outcome.log or "").rstrip().splitlines()[-_LOG_LINES:]
    log = "\n".join(html.escape("".join(c for c in line if c.isprintable() or c == "\t")) for line in lines)
    title = f"<summary>{plain(outcome.recipe)} {plain(outcome.cell)}: {plain(outcome.reason)}</summary>"
    hint = f"Next: {plain(outcome.hint)}\n" if outcome.hint else ""
    # A blank line would end the HTML block, and the rest would be Markdown.
    block = "<pre>" + "\n".join(line or " " for line in log.split("\n")) + "</pre>\n" if log else ""
    return f"<details>{title}\n\n{hint}\n{block}</details>"

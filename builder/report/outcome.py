"""What came of planned cells, from the results that runs have written: a table for people, or for GitHub's summary."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder import records
from builder.ci.model import CiPlan
from builder.errors import UsageError
from builder.report.words import duration
from builder.tomldoc import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_NOT_OVER = "no result: the job was cancelled, or ended before the cell was begun"
# What makes a summary a failure; the other words are `done`, `unchanged` and `impossible`.
FAILED = ("failed", "missing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one cell.

    `status` is `done`, `unchanged`, `failed`, `missing` (planned, but no run has written a result) or `impossible`.
    `size` is in bytes, compressed; `stages` holds seconds of those that ran; `log` is the tail of what failed.
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


def outcomes(results: Iterable[Path], plan: Path | None) -> tuple[Outcome, ...]:
    """Return what came of all cells: those of the plan in its order, then others that were run.

    Raises:
        UsageError: a file is no plan, or no result of a run.
    """
    found = {(one.recipe, one.cell): one for path in results for one in _of_result(path)}
    if plan is None:
        return tuple(found.values())
    planned = _plan(plan)
    lines = [
        found.pop(
            (entry.recipe, entry.cell),
            Outcome(recipe=entry.recipe, cell=entry.cell, status="missing", reason=_NOT_OVER),
        )
        for entry in planned.include
    ]
    skipped = [Outcome(recipe=s.recipe, cell=s.cell, status=s.status, reason=s.reason) for s in planned.skipped]
    return (*lines, *found.values(), *skipped)


def _plan(path: Path) -> CiPlan:
    try:
        return records.decode(json.loads(path.read_text(encoding="utf-8")), CiPlan)  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        hint = "`jbuild matrix RECIPE --format github --output FILE` writes one"
        raise UsageError("this is no plan", where=str(path), hint=hint) from error


def _of_result(path: Path) -> Iterator[Outcome]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        yield from [_outcome(str(result["recipe"]), cell) for cell in result["cells"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = "`jbuild recipe RECIPE --result FILE` writes one"
        raise UsageError("this is no result of a run", where=str(path), hint=hint) from error


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
            f"{there['repository']}:{tag['name']}" for there in publication["registries"] for tag in there["tags"]
        ),
        stages={name: stage["seconds"] for name, stage in cell["stages"].items() if stage["ran"]},
        hint=error.get("hint"),
        log=error.get("log"),
    )


def counted(found: Sequence[Outcome]) -> str:
    """Return how many cells ended how."""
    statuses = [one.status for one in found]
    return ", ".join(f"{statuses.count(word)} {word}" for word in dict.fromkeys(statuses)) or "no cells"


def text_rows(found: Iterable[Outcome]) -> list[tuple[str, ...]]:
    """Return rows for a table on a terminal."""
    return [
        (one.recipe, one.cell, one.status, one.level or "", size(one), times(one), shown(one.reason or said(one)))
        for one in found
    ]


def size(one: Outcome) -> str:
    """Return an image's size for people."""
    return "" if one.size is None else f"{one.size / 1e6:.0f} MB"


def times(one: Outcome) -> str:
    """Return what the stages that ran took, all together first."""
    each = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in one.stages.items())
    return f"{duration(sum(one.stages.values()))} ({each})" if each else ""


def said(one: Outcome) -> str:
    """Return what the model said, on one line."""
    return "; ".join(" ".join(answer.split()) for answer in one.answers)

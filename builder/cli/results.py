"""Results of verbs as JSON and text: of success, of failure, and of several cells that failed alike."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from builder.errors import JbuildError
from builder.host import records
from builder.host.console import Console
from builder.host.files import write_text
from builder.host.units import moment
from builder.host.wording import printable
from builder.pipeline.failure import Failure, RunningStage


def show(result: Any, text: str, console: Console) -> None:
    """Print a result: as JSON with `--json`, else its text."""
    console.result(records.to_json(result), text)


def as_text(result: Any) -> str:
    """Return a result as the text of its JSON."""
    return json.dumps(records.to_json(result), indent=2)


def write(path: Path, result: Any) -> None:
    """Write a result to a file, as JSON.

    Raises:
        DiskError: the file cannot be written.
    """
    write_text(path, as_text(result) + "\n")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as text in columns."""
    cells = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return "\n".join(lines)


def first_of(names: Sequence[str], most: int) -> str:
    """Return the first names in words, and the number of others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def without_controls(line: str) -> str:
    """Return a line without control characters: names in wheels and logs may hold any."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """One mistake in a document."""

    file: str
    line: int | None
    key: str
    message: str
    hint: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VerbFailure:
    """Why a verb failed: `error` names the branch, `hint` the next step, `log` is the tail of a program's output.

    `problems` come with documents; `step` and `level` with a smoke run; `publication` with an incomplete push.
    """

    error: str
    message: str
    where: str | None
    hint: str | None
    log: str | None
    exit_code: int
    problems: tuple[Mistake, ...] | None = field(default=None, metadata=records.OPTIONAL)
    step: str | None = field(default=None, metadata=records.OPTIONAL)
    level: str | None = field(default=None, metadata=records.OPTIONAL)
    publication: dict[str, Any] | None = field(default=None, metadata=records.OPTIONAL)


def failure_of(error: JbuildError) -> VerbFailure:
    """Return an error as a part of a result."""
    return cast("VerbFailure", records.from_json(error.as_json(), VerbFailure))


def failed_text(failure: Failure) -> str:
    """Return the failed stage of a past run, its time and its cause, on one line."""
    when = f", {moment(failure.when)}" if failure.when else ""
    outdated = ", with another lock" if failure.outdated else ""
    return f"at {failure.stage}{when}{outdated}: {printable(' '.join(failure.message.split()))}"


def running_text(running: RunningStage) -> str:
    """Return the stage that runs, and since when."""
    return f"{running.stage}, since {moment(running.since)}"


def show_failures(failures: Sequence[tuple[str, JbuildError]], console: Console) -> None:
    """Print the errors of cells (by id); errors that differ in the cell's name alone are printed once."""
    for cells, error in alike(failures):
        console.note(f"{', '.join(cells)} failed:")
        console.failure(error, as_result=False)


def alike(failures: Sequence[tuple[str, JbuildError]]) -> list[tuple[list[str], JbuildError]]:
    """Return each error with the cells that failed with it; its texts are those of the first."""
    groups: dict[tuple[object, ...], tuple[list[str], JbuildError]] = {}
    for cell, error in failures:
        name = re.compile(rf"(?<!\w){re.escape(cell)}(?!\w)")
        texts = (error.message, error.where, error.hint, error.log)
        key = (type(error), *(name.sub("{cell}", text or "") for text in texts))
        groups.setdefault(key, ([], error))[0].append(cell)
    return list(groups.values())

"""Failures: the object that `--json` prints for one, and errors of several cells shown once for each cause."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from builder.errors import JbuildError
from builder.host import records
from builder.host.console import Console


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

"""What is looked at, as data: why each thing matters, what can be wrong with it, and what mends that."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents
from builder.project.doctor.check_records import Check, State

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

DATA = Path(__file__).with_name("checks.toml")
_STATES: dict[str, State] = {"warning": "warning", "error": "error"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckProblem:
    """Something that can be wrong: how bad it is, and what mends it. `{name}` stands for what was found.

    `safe` is a command that may be run without asking: it takes nothing away, needs no rights that the user lacks,
    and replaces nothing that runs.
    """

    id: str
    state: State
    mend: str
    safe: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRow:
    """One thing that is looked at."""

    name: str
    why: str
    troubles: tuple[CheckProblem, ...]


@cache
def subjects() -> dict[str, CheckRow]:
    """Return everything that is looked at, by name, in the order in which it is told.

    Raises:
        DocumentError: the table has mistakes.
    """
    rows = documents.load(DATA, "the doctor's subjects have mistakes", _parse)
    return {row.name: row for row in rows}


def fine(name: str, found: str) -> Check:
    """Return that all is well with something."""
    return Check(name=name, state="ok", found=found, why=subjects()[name].why)


def idle(name: str, found: str) -> Check:
    """Return that something does not matter here, and why."""
    return Check(name=name, state="not applicable", found=found, why=subjects()[name].why)


def trouble(name: str, kind: str, found: str, *, fixable: bool = True, **values: str) -> Check:
    """Return what is wrong with something; `values` fill in what the table leaves open.

    With `fixable` false the safe command is left away: it would not help here.
    """
    subject = subjects()[name]
    (row,) = [each for each in subject.troubles if each.id == kind]
    known = {"python": sys.executable, **values}
    fix = tuple(word.format_map(known) for word in row.safe) if fixable else ()
    return Check(name=name, state=row.state, found=found, why=subject.why, mend=row.mend.format_map(known), fix=fix)


def _parse(root: Table) -> tuple[CheckRow, ...]:
    return tuple(_subject(table) for table in root.tables("subjects"))


def _subject(table: Table) -> CheckRow:
    row = CheckRow(
        name=table.string("name", pattern=r"[A-Za-z0-9 -]+", noun="a name"),
        why=table.string("why", pattern=".+", noun="a reason"),
        troubles=tuple(_trouble(inner) for inner in table.tables("troubles")),
    )
    table.done()
    return row


def _trouble(table: Table) -> CheckProblem:
    row = CheckProblem(
        id=table.string("id", pattern=r"[a-z0-9-]+", noun="a short name"),
        state=_STATES.get(table.string("state", pattern="|".join(_STATES), noun="warning or error"), "error"),
        mend=table.string("mend", pattern=".+", noun="a command or a sentence"),
        safe=table.strings("safe"),
    )
    table.done()
    return row

"""The table of checks (why each one matters, its possible problems, and their fixes), and their results."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.host.paths import ENGINE_SCRIPT
from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.host.toml.tables import Table
    from builder.model.locks import Job
    from builder.model.recipes import Recipe

DATA = Path(__file__).with_name("checks.toml")
# An error stops something that this machine is set up for; a warning makes it slower or limits it.
State = Literal["ok", "warning", "error", "not applicable"]
_STATES: dict[str, State] = {"warning": "warning", "error": "error"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A check's result: its state, the finding, the reason why it matters, and the fix.

    `fix` is a safe command that `--fix` runs; `mend` is the fix in words.
    """

    name: str
    state: State
    found: str
    why: str
    mend: str | None = None
    fix: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorContext:
    """The machine to check, and the recipe to check it for, if any.

    `engine` is None if none answers; `refusal` is then the reason and `hint` the fix. `root` contains the machine's
    `proc`, `sys` and `etc`. `builds` is false on a machine that only loads and runs images.
    """

    session: Session
    engine: Engine | None = None
    refusal: str = ""
    hint: str = ""
    recipe: Recipe | None = None
    jobs: tuple[Job, ...] = ()
    builds: bool = True
    root: Path = Path("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckProblem:
    """A possible problem: its state, and its fix in words, with `{name}` for values of the check.

    `in_checkout` is a further fix in a checkout of jbuild. `safe` is a command that `--fix` runs: it deletes nothing
    that cannot be made again, needs no more rights than the user's, and replaces nothing that runs.
    """

    id: str
    state: State
    fix: str
    in_checkout: str | None = None
    safe: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRow:
    """A check, with all its possible problems; `builds_only`: it matters only where images are built."""

    name: str
    why: str
    builds_only: bool
    problems: tuple[CheckProblem, ...]


@cache
def check_rows() -> dict[str, CheckRow]:
    """Return the checks by name, in the order of the output.

    Raises:
        DocumentError: the table has mistakes.
    """
    return documents.load(DATA, "the doctor's checks have mistakes", _parse)


def ok(name: str, text: str) -> Check:
    """Return a passed check."""
    return Check(name=name, state="ok", found=text, why=check_rows()[name].why)


def skipped(name: str, text: str) -> Check:
    """Return a check that does not apply to this machine, with the reason."""
    return Check(name=name, state="not applicable", found=text, why=check_rows()[name].why)


def problem(name: str, problem_id: str, text: str, *, fixable: bool = True, **values: str) -> Check:
    """Return a check with a problem; `values` fill in the placeholders of the table.

    Without `fixable`, the result has no safe command, since it would not help on this machine.
    """
    check = check_rows()[name]
    (row,) = [candidate for candidate in check.problems if candidate.id == problem_id]
    variables = {"python": sys.executable, **values}
    fix = tuple(word.format_map(variables) for word in row.safe) if fixable else ()
    mend = row.fix.format_map(variables)
    if row.in_checkout and ENGINE_SCRIPT.is_file():
        mend += f"; or, in the checkout of jbuild, {row.in_checkout}"
    return Check(name=name, state=row.state, found=text, why=check.why, mend=mend, fix=fix)


def _parse(root: Table) -> dict[str, CheckRow]:
    return {row.name: row for row in map(_check, root.tables("checks"))}


def _check(table: Table) -> CheckRow:
    row = CheckRow(
        name=table.string("name", pattern=r"[A-Za-z0-9 -]+", noun="a name"),
        why=table.string("why", pattern=".+", noun="a reason"),
        builds_only=table.boolean("builds-only", default=False),
        problems=tuple(_problem(inner) for inner in table.tables("problems")),
    )
    table.done()
    return row


def _problem(table: Table) -> CheckProblem:
    row = CheckProblem(
        id=table.string("id", pattern=r"[a-z0-9-]+", noun="a short name"),
        state=_STATES.get(table.string("state", pattern="|".join(_STATES), noun="warning or error"), "error"),
        fix=table.string("fix", pattern=".+", noun="a command or a sentence"),
        in_checkout=table.optional_string("in-checkout"),
        safe=table.strings("safe"),
    )
    table.done()
    return row

"""`jbuild doctor`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from builder.cli.cell_selection import session_verb
from builder.cli.results import show, without_controls
from builder.cli.verb_options import complete_recipes
from builder.errors import EngineError
from builder.host.session import Session
from builder.project.doctor.check_records import Check
from builder.project.doctor.examination import AppliedFix, apply_fixes, doctor_context, examine
from builder.recipe.find import find
from builder.recipe.load import load

_WORDS = {"ok": "ok", "warning": "warning", "error": "error", "not applicable": "n/a"}
_INDENT = " " * 23


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorResult:
    """Checks of this machine, and the fixes that were run; `usable`: no check found an error."""

    usable: bool
    checks: tuple[Check, ...]
    mended: tuple[AppliedFix, ...]


@session_verb(
    "doctor",
    click.argument("recipe", required=False, shell_complete=complete_recipes),
    click.option("--fix", is_flag=True, help="Run the safe fixes, then check again."),
)
def command(session: Session, recipe: str | None, fix: bool) -> int:
    """Check whether this machine can build images, or the images of RECIPE, and show the fix for each problem."""
    loaded = load(find(recipe, session.workspace.recipe_folders)) if recipe else None
    checks = list(examine(doctor_context(session, loaded)))
    fixes = apply_fixes(checks, session.console) if fix else []
    if fixes:
        checks = list(examine(doctor_context(session, loaded)))
    usable = all(check.state != "error" for check in checks)
    result = DoctorResult(usable=usable, checks=tuple(checks), mended=tuple(fixes))
    show(result, text(checks, fixes), session.console)
    return 0 if usable else EngineError.exit_code


def text(checks: Sequence[Check], fixes: Sequence[AppliedFix]) -> str:
    """Return the checks as text."""
    lines: list[str] = []
    for before, check in zip((None, *checks), checks, strict=False):
        lines += _check(check, again=before is not None and before.name == check.name)
    for fix in fixes:
        lines.append(f"fixed: {fix.command}" if fix.failure is None else f"not fixed: {fix.command}: {fix.failure}")
    return "\n".join(map(without_controls, [*lines, verdict(checks)]))


def verdict(checks: Sequence[Check]) -> str:
    """Return the last line: whether this machine can build images, and the checks that failed."""
    wrong = list(dict.fromkeys(check.name for check in checks if check.state == "error"))
    doubtful = list(dict.fromkeys(check.name for check in checks if check.state == "warning"))
    fixable = any(check.fix for check in checks if check.state in {"warning", "error"})
    answer = f"to be fixed: {', '.join(wrong)}" if wrong else "this machine can build images"
    more = f"; warnings: {', '.join(doubtful)}" if doubtful else ""
    return answer + more + ("; `jbuild doctor --fix` runs the safe commands" if fixable else "")


def _check(check: Check, *, again: bool) -> Iterator[str]:
    """Yield the lines of a check; a second one of the same name does not repeat its reason."""
    yield f"{_WORDS[check.state]:<8} {check.name:<13} {check.found}"
    if check.state in {"warning", "error"}:
        if not again:
            yield f"{_INDENT}why: {check.why}"
        yield f"{_INDENT}fix: {check.mend}"
        if check.fix:
            yield f"{_INDENT}--fix runs: {shlex.join(check.fix)}"

"""The options of `jbuild lock`, and its --check."""

from __future__ import annotations

from dataclasses import dataclass

from builder.cli.cell_selection import CellSelection
from builder.cli.error_output import VerbFailure, failure_of, show_failures
from builder.cli.results import show
from builder.cli.views.run_view import RunResult
from builder.errors import IntegrityError
from builder.host.paths import check_cache
from builder.lock.lock_check import CellCheck, LockFinding, check_lock


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedLock:
    """A lock that was checked."""

    cell: str
    current: bool
    error: VerbFailure | None
    findings: tuple[LockFinding, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockCheck:
    """With --check: whether locks are current, and indexes still serve their files."""

    recipe: str
    cells: tuple[CheckedLock, ...]


LockResult = RunResult | LockCheck


def check_locks(selection: CellSelection) -> int:
    """Check locks; a locked file that is gone or changed is an error unless the wheelhouse has it."""
    session, recipe, jobs, checks = selection.session, selection.recipe.name, selection.possible_jobs(), []
    check_cache(session.workspace)
    with session.console.task(f"checking the locks of {recipe}", len(jobs), unit="cells") as task:
        for job in jobs:
            checks.append(check_lock(job, session))
            task.advance(1)
    errors = [(check.cell, check.error) for check in checks if check.error]
    show_failures(errors, session.console)
    text = "\n".join(line for check in checks for line in _lines(check))
    show(LockCheck(recipe=recipe, cells=tuple(map(_checked, checks))), text, session.console)
    if errors:
        return errors[0][1].exit_code
    lost = any(not finding.kept for check in checks for finding in check.findings)
    return IntegrityError.exit_code if lost else 0


def _lines(check: CellCheck) -> list[str]:
    heading = f"{check.cell}: {'has problems' if check.error or check.findings else 'current'}"
    return [heading, *(f"  {finding.filename}: {finding.says}" for finding in check.findings)]


def _checked(check: CellCheck) -> CheckedLock:
    error = failure_of(check.error) if check.error else None
    return CheckedLock(cell=check.cell, current=error is None, error=error, findings=check.findings)

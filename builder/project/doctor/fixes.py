"""Runs the safe fixes, each once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.process import run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.console import Console
    from builder.project.doctor.check_records import Check

_WITHIN_S = 1200


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedFix:
    """A fix that was run, and its error if it failed."""

    command: str
    failure: str | None = None


def apply_fixes(checks: Iterable[Check], console: Console) -> list[AppliedFix]:
    """Print and run the safe commands of failed checks, also after one that fails."""
    commands = dict.fromkeys(check.fix for check in checks if check.fix and check.state in {"warning", "error"})
    return [_run(argv, console) for argv in commands]


def _run(argv: tuple[str, ...], console: Console) -> AppliedFix:
    command = shlex.join(argv)
    console.note(f"running: {command}")
    try:
        run(argv, timeout_s=_WITHIN_S, on_line=console.say)
    except JbuildError as error:
        output = (error.log or error.message).strip().splitlines()
        return AppliedFix(command=command, failure=output[-1] if output else error.message)
    return AppliedFix(command=command)

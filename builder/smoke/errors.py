"""Failures of a smoke run's steps, with the usual remedies from a table, and errors that only its log shows."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from builder.host.engine.container import printable_line
from builder.host.toml import documents
from builder.host.toml.tables import pattern_of

if TYPE_CHECKING:
    from builder.host.engine.container import ContainerState
    from builder.host.toml.tables import Table
    from builder.model.verdicts import Step

_FOLDER = Path(__file__).parent
# Only the end of a long log is read.
_READ_BYTES = 4 << 20
_KEPT_ERRORS = 5
# The end of a traceback, after the logger's words before it.
_EXCEPTION = re.compile(r"(?:^|[\s\]])((?:\w+\.)*\w*(?:Error|Exception): \S.*)")
_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A kind of failure, and its usual remedies."""

    id: str
    helps: tuple[str, ...]
    source: str


@cache
def faults() -> dict[str, Fault]:
    """Return all faults by their ids.

    Raises:
        DocumentError: the table has mistakes.
    """
    rows = documents.load(_FOLDER / "faults.toml", "the table of faults has mistakes", _faults)
    return {fault.id: fault for fault in rows}


def _faults(root: Table) -> tuple[Fault, ...]:
    return tuple(
        Fault(id=table.string("id"), helps=table.strings("helps"), source=table.string("source"))
        for table in root.rows("faults")
    )


class StepFailedError(Exception):
    """A step of the smoke run failed; `fault` is the kind of failure."""

    def __init__(self, step: Step, fault: str, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.fault = faults()[fault]
        self.message = message

    @property
    def hint(self) -> str:
        """The usual remedies."""
        return "; or ".join(self.fault.helps)


def ended(step: Step, fault: str, event: str, state: ContainerState) -> StepFailedError:
    """Return the failure of a container that has ended, as `out-of-memory` if the kernel killed it."""
    if state.out_of_memory:
        message = f"{event}: out of memory, the kernel killed it (exit code {state.code})"
        return StepFailedError(step, "out-of-memory", message)
    more = f" ({state.error})" if state.error else ""
    return StepFailedError(step, fault, f"{event}: {exit_meaning(state.code)}{more}")


def exit_meaning(code: int) -> str:
    """Return an exit code with the name of its signal."""
    try:
        return f"exit code {code} ({signal.Signals(code - 128).name})" if code > 128 else f"exit code {code}"  # noqa: PLR2004
    except ValueError:
        return f"exit code {code}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedLog:
    """A log: its lines, the first different errors among them, and the number of lines that report a compilation."""

    lines: tuple[str, ...]
    errors: tuple[str, ...]
    compilations: int = 0


def read_log(path: Path) -> ScannedLog:
    """Read the log of an ended container; a container that never started has none."""
    if not path.is_file():
        return ScannedLog(lines=(), errors=())
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _READ_BYTES))
        lines = tuple(printable_line(line.decode(errors="replace")) for line in file)
    compilations = sum(_any(_signs().compilations, line) for line in lines)
    return ScannedLog(lines=lines, errors=log_errors(lines), compilations=compilations)


def log_errors(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first different lines that report an error and are not known to be harmless."""
    signs = _signs()
    examples: dict[str, str] = {}
    for line in lines:
        if _any(signs.errors, line) and not _any(signs.harmless, line):
            # Repeated errors differ only in time and process.
            examples.setdefault(re.sub(r"\d+", "#", line), line[:_SHOWN])
    return tuple(examples.values())[:_KEPT_ERRORS]


def first_exception(lines: tuple[str, ...]) -> str | None:
    """Return the first exception of a log: servers of several processes raise others after the cause; None without."""
    found = (_EXCEPTION.search(line) for line in lines)
    return next((match[1][:_SHOWN] for match in found if match), None)


class _Signs(NamedTuple):
    errors: tuple[re.Pattern[str], ...]
    harmless: tuple[re.Pattern[str], ...]
    compilations: tuple[re.Pattern[str], ...]


@cache
def _signs() -> _Signs:
    return documents.load(
        _FOLDER / "logs.toml",
        "the table of signs in logs has mistakes",
        lambda root: _Signs(*(_patterns(root, key) for key in _Signs._fields)),
    )


def _patterns(root: Table, key: str) -> tuple[re.Pattern[str], ...]:
    patterns = []
    for table in root.rows(key):
        patterns.append(pattern_of(table, "pattern"))
        table.string("source")
    return tuple(patterns)


def _any(patterns: tuple[re.Pattern[str], ...], line: str) -> bool:
    return any(pattern.search(line) for pattern in patterns)

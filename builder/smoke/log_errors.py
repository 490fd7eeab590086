"""Searches a container's log for errors that the answers do not show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.engine.container import printable_line
from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

DATA = Path(__file__).with_name("logs.toml")
# Only the end of a long log is read.
_READ_BYTES = 4 << 20
_KEPT_ERRORS = 5
_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedLog:
    """A log: its lines, and the first different errors among them."""

    lines: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Signs:
    errors: tuple[re.Pattern[str], ...]
    harmless: tuple[re.Pattern[str], ...]

    def show(self, line: str) -> bool:
        """Return whether a line reports an error."""
        return _any(self.errors, line) and not _any(self.harmless, line)


def read(path: Path) -> ScannedLog:
    """Read the log of an ended container; a container that never started has none."""
    if not path.is_file():
        return ScannedLog(lines=(), errors=())
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _READ_BYTES))
        lines = tuple(printable_line(line.decode(errors="replace")) for line in file)
    return ScannedLog(lines=lines, errors=errors(lines))


def errors(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first different lines that report an error and are not known to be harmless."""
    signs = _signs()
    examples: dict[str, str] = {}
    for line in lines:
        if signs.show(line):
            # Repeated errors differ only in time and process.
            examples.setdefault(re.sub(r"\d+", "#", line), line[:_SHOWN])
    return tuple(examples.values())[:_KEPT_ERRORS]


@cache
def _signs(path: Path = DATA) -> _Signs:
    return documents.load(path, "the table of signs in logs has mistakes", _parse)


def _parse(root: Table) -> _Signs:
    return _Signs(errors=_patterns(root, "errors"), harmless=_patterns(root, "harmless"))


def _patterns(root: Table, key: str) -> tuple[re.Pattern[str], ...]:
    patterns = []
    for table in root.tables(key):
        patterns.append(documents.pattern_of(table, "pattern"))
        table.string("source")
        table.done()
    return tuple(patterns)


def _any(patterns: tuple[re.Pattern[str], ...], line: str) -> bool:
    return any(pattern.search(line) for pattern in patterns)

"""Reads the logs of builds and servers for known troubles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents
from builder.jetson.advisories import advisories

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable

    from builder.host.toml.documents import Table
    from builder.jetson.advisories import Advisory

DATA = Path(__file__).with_name("symptoms.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptom:
    """What a line of a log means and what usually helps."""

    pattern: re.Pattern[str]
    says: str
    hint: str
    source: str


@cache
def symptoms(path: Path = DATA) -> tuple[Symptom, ...]:
    """Return all known symptoms, the more telling ones first: those that advisories speak of, then the table's.

    Raises:
        DocumentError: a data file has mistakes.
    """
    of_advisories = (_of_advisory(advisory, advisory.log) for advisory in advisories() if advisory.log)
    return (*of_advisories, *documents.load(path, "the table of symptoms has mistakes", _parse))


def _of_advisory(advisory: Advisory, pattern: re.Pattern[str]) -> Symptom:
    rules = ", ".join(advisory.constrain)
    hint = advisory.hint or f"add the constraint `{rules}` to the recipe, or lock anew: jbuild keeps it by itself"
    says = f"this looks like advisory {advisory.id}: {advisory.symptom}"
    return Symptom(pattern=pattern, says=says, hint=hint, source=advisory.source)


def find(lines: Iterable[str]) -> tuple[Symptom, ...]:
    """Return the symptoms that lines tell of, in the table's order."""
    log = list(lines)
    return tuple(symptom for symptom in symptoms() if any(symptom.pattern.search(line) for line in log))


def _parse(root: Table) -> tuple[Symptom, ...]:
    return tuple(_symptom(table) for table in root.tables("symptoms"))


def _symptom(table: Table) -> Symptom:
    pattern = documents.pattern_of(table, "pattern")
    says, hint, source = table.string("says"), table.string("hint"), table.string("source")
    table.done()
    return Symptom(pattern=pattern, says=says, hint=hint, source=source)

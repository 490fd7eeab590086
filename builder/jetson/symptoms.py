"""Finds known problems in the logs of builds and servers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from builder.host.toml.declarations import declaration_of, load_rows, regex, string
from builder.jetson.advisories import advisories

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.jetson.advisories import Advisory

DATA = Path(__file__).with_name("symptoms.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptom:
    """The meaning of a log line and its usual fix."""

    pattern: Annotated[re.Pattern[str], regex()]
    says: Annotated[str, string()]
    hint: Annotated[str, string()]
    source: Annotated[str, string()]


_SYMPTOM = declaration_of(Symptom)


@cache
def symptoms(path: Path = DATA) -> tuple[Symptom, ...]:
    """Return all known symptoms, the more specific ones first: those of advisories, then those of the table.

    Raises:
        DocumentError: a data file has mistakes.
    """
    of_advisories = (_of_advisory(advisory, advisory.log) for advisory in advisories() if advisory.log)
    return (*of_advisories, *load_rows(path, "the table of symptoms has mistakes", "symptoms", _SYMPTOM))


def _of_advisory(advisory: Advisory, pattern: re.Pattern[str]) -> Symptom:
    rules = ", ".join(advisory.constrain)
    hint = advisory.hint or f"add the constraint `{rules}` to the recipe, or lock again: jbuild then applies it"
    says = f"this looks like advisory {advisory.id}: {advisory.symptom}"
    return Symptom(pattern=pattern, says=says, hint=hint, source=advisory.source)


def find(lines: Iterable[str]) -> tuple[Symptom, ...]:
    """Return the symptoms that match a log, in the table's order."""
    log = list(lines)
    return tuple(symptom for symptom in symptoms() if any(symptom.pattern.search(line) for line in log))

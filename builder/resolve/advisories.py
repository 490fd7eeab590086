"""Versions that break together although their metadata allows it, as constraints; see `advisories.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder import tomldoc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.tomldoc import Table

_ID = r"[a-z0-9][a-z0-9.-]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Advisory:
    """A row of `advisories.toml`: if a package fits `when`, all of `constrain` must hold, or `symptom` is seen."""

    id: str
    when: tuple[str, ...]
    constrain: tuple[str, ...]
    symptom: str
    source: str


@cache
def advisories() -> tuple[Advisory, ...]:
    """Return the rows of `advisories.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return tomldoc.load(Path(__file__).with_name("advisories.toml"), "the advisories have mistakes", _parse)


def applying(versions: Mapping[str, str], ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories that a set of versions (by distribution) calls for, the ignored ones left out."""
    left_out = set(ignored)
    return tuple(
        each for each in advisories() if each.id not in left_out and any(_fits(when, versions) for when in each.when)
    )


def broken(versions: Mapping[str, str], ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories that a set of versions calls for and does not keep."""
    return tuple(
        each for each in applying(versions, ignored) if not all(_kept(rule, versions) for rule in each.constrain)
    )


def _fits(when: str, versions: Mapping[str, str]) -> bool:
    requirement = Requirement(when)
    version = versions.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _kept(rule: str, versions: Mapping[str, str]) -> bool:
    """A constraint on a package that is not there is kept."""
    return canonicalize_name(Requirement(rule).name) not in versions or _fits(rule, versions)


def _parse(root: Table) -> tuple[Advisory, ...]:
    found: list[Advisory] = []
    for table in root.tables("advisories"):
        found.append(
            Advisory(
                id=table.string("id", pattern=_ID, noun="a short id"),
                when=_requirements(table, "when"),
                constrain=_requirements(table, "constrain"),
                symptom=table.string("symptom"),
                source=table.string("source"),
            )
        )
        if [each.id for each in found].count(found[-1].id) > 1:
            table.problem("id", f"`{found[-1].id}` is the id of another advisory too")
        table.done()
    return tuple(found)


def _requirements(table: Table, key: str) -> tuple[str, ...]:
    found = table.strings(key)
    if not found:
        table.problem(key, "must name at least one requirement")
    for text in found:
        try:
            Requirement(text)
        except InvalidRequirement as error:
            table.problem(key, f"`{text}` is no requirement: {error}")
    return found

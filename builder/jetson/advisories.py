"""Versions that break together although their metadata allows it: constraints, warnings and what logs say of them.

The rows are in `advisories.toml`.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.host.toml import documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.host.toml.documents import Table
    from builder.model.platforms import Platform

_ID = r"[a-z0-9][a-z0-9.-]*"
_PLACEHOLDER = re.compile(r"\{([a-z0-9-]+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Advisory:
    """A row of `advisories.toml`.

    It speaks of a cell where a package fits `when`, comes from `index` (a glob), and the platform fits `l4t` and `cuda`
    (globs), `sms` and `glibcxx_below` (a symbol version). Then all of `constrain` must hold, in which `{package}` is
    that package's version; a row without it warns, unless `needs_apt` is in the image.
    `log` is what a program prints when it was not kept, `symptom` what it means, `hint` what to do.
    """

    id: str
    when: tuple[str, ...]
    symptom: str
    source: str
    constrain: tuple[str, ...] = ()
    l4t: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()
    sms: tuple[str, ...] = ()
    index: str | None = None
    glibcxx_below: str | None = None
    needs_apt: str | None = None
    log: re.Pattern[str] | None = None
    hint: str = ""

    def rules(self, versions: Mapping[str, str]) -> tuple[str, ...]:
        """Return its constraints for these versions; those that name a package which is not there fall away."""
        templates = [(rule, _PLACEHOLDER.findall(rule)) for rule in self.constrain]
        return tuple(
            _PLACEHOLDER.sub(lambda match: versions[match[1]], rule)
            for rule, names in templates
            if all(name in versions for name in names)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What advisories judge: versions by distribution, where they are to run, and from which index they come."""

    versions: Mapping[str, str]
    platform: Platform
    sources: Mapping[str, str] = field(default_factory=dict)
    apt: tuple[str, ...] = ()


@cache
def advisories() -> tuple[Advisory, ...]:
    """Return the rows of `advisories.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(Path(__file__).with_name("advisories.toml"), "the advisories have mistakes", _parse)


def applying(situation: Situation, ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories that speak of a situation, the ignored ones left out."""
    left_out = set(ignored)
    return tuple(advisory for advisory in advisories() if advisory.id not in left_out and _speaks(advisory, situation))


def broken(situation: Situation, ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories whose constraints a situation does not keep."""
    versions = situation.versions
    return tuple(
        advisory
        for advisory in applying(situation, ignored)
        if not all(_holds(rule, versions) for rule in advisory.rules(versions))
    )


def warnings(situation: Situation, ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories that no constraint can keep: what is known to go wrong with these very wheels."""
    names = {package.partition("=")[0] for package in situation.apt}
    return tuple(
        advisory
        for advisory in applying(situation, ignored)
        if not advisory.constrain and advisory.needs_apt not in names
    )


def _speaks(advisory: Advisory, situation: Situation) -> bool:
    platform = situation.platform
    if advisory.l4t and not any(fnmatch.fnmatchcase(platform.l4t or "", glob) for glob in advisory.l4t):
        return False
    if advisory.cuda and not any(fnmatch.fnmatchcase(platform.cuda or "", glob) for glob in advisory.cuda):
        return False
    if advisory.sms and not set(advisory.sms) & set(platform.sms):
        return False
    if advisory.glibcxx_below and _numbers(platform.glibcxx) >= _numbers(advisory.glibcxx_below):
        return False
    return any(_fits(when, situation.versions) and _comes_from(when, advisory, situation) for when in advisory.when)


def _comes_from(when: str, advisory: Advisory, situation: Situation) -> bool:
    source = situation.sources.get(canonicalize_name(Requirement(when).name), "default")
    return advisory.index is None or fnmatch.fnmatchcase(source, advisory.index)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _fits(when: str, versions: Mapping[str, str]) -> bool:
    requirement = Requirement(when)
    version = versions.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _holds(rule: str, versions: Mapping[str, str]) -> bool:
    """A constraint on a package that is not there is kept."""
    return canonicalize_name(Requirement(rule).name) not in versions or _fits(rule, versions)


def _parse(root: Table) -> tuple[Advisory, ...]:
    rows: list[Advisory] = []
    for table in root.tables("advisories"):
        rows.append(_advisory(table))
        if [row.id for row in rows].count(rows[-1].id) > 1:
            table.problem("id", f"`{rows[-1].id}` is the id of another advisory too")
        table.done()
    return tuple(rows)


def _advisory(table: Table) -> Advisory:
    advisory = Advisory(
        id=table.string("id", pattern=_ID, noun="a short id"),
        when=_requirements(table, "when"),
        constrain=_requirements(table, "constrain"),
        l4t=table.strings("l4t", pattern=r"[0-9.*]+", noun="an L4T release or glob"),
        cuda=table.strings("cuda", pattern=r"[0-9.*]+", noun="a CUDA version or glob"),
        sms=table.strings("sms", pattern=r"[0-9]+\.[0-9]+", noun="a compute capability such as 8.7"),
        index=table.optional_string("index", pattern=r"[a-z0-9*-]+", noun="an index's name or glob"),
        glibcxx_below=table.optional_string("glibcxx-below", pattern=r"[0-9]+\.[0-9]+\.[0-9]+", noun="such as 3.4.32"),
        needs_apt=table.optional_string("needs-apt"),
        symptom=table.string("symptom", pattern=".+", noun="what people see"),
        log=documents.pattern_of(table, "log") if "log" in table else None,
        hint=table.optional_string("hint") or "",
        source=table.string("source", pattern=".+", noun="a source"),
    )
    if not advisory.when:
        table.problem("when", "must name at least one requirement")
    if not advisory.constrain and not advisory.hint:
        table.problem("hint", "a row that constrains nothing says what to do")
    return advisory


def _requirements(table: Table, key: str) -> tuple[str, ...]:
    requirements = table.strings(key)
    for text in requirements:
        try:
            Requirement(_PLACEHOLDER.sub("1", text))
        except InvalidRequirement as error:
            table.problem(key, f"`{text}` is not a requirement: {error}")
    return requirements

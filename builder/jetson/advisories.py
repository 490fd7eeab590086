"""Known problems: versions that metadata allows but that are incompatible, and messages in logs of programs."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.host.toml.declarations import (
    Source,
    ValueType,
    declaration_of,
    list_schema,
    load_rows,
    regex,
    string,
    string_schema,
    strings,
)
from builder.jetson.distributions import version_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.host.toml.tables import Table
    from builder.model.platforms import Platform

_ADVISORIES = Path(__file__).with_name("advisories.toml")
SYMPTOMS = Path(__file__).with_name("symptoms.toml")
_PLACEHOLDER = re.compile(r"\{([a-z0-9-]+)\}")


def _read_requirements(table: Table, key: str, _: None) -> tuple[str, ...]:
    requirements = table.strings(key)
    for text in requirements:
        try:
            Requirement(_PLACEHOLDER.sub("1", text))
        except InvalidRequirement as error:
            table.problem(key, f"`{text}` is not a requirement: {error}")
    return requirements


_REQUIREMENTS = ValueType(read=_read_requirements, schema=lambda: list_schema(string_schema()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Advisory:
    """A row of `advisories.toml`.

    It applies to a cell if a package matches `when` and comes from `index` (a glob), and the platform matches `l4t` and
    `cuda` (globs; `none` for platforms without L4T), `sms` and `glibcxx_below` (a symbol version). All of `constrain`
    must hold then; `{package}` stands for that package's version. A row without `constrain` warns, unless the image has
    the package `needs_apt`.
    `log` matches what programs print if a constraint is violated, `symptom` explains it, `hint` is the next step.
    """

    id: Annotated[str, string(r"[a-z0-9][a-z0-9.-]*", "a short id")]
    when: Annotated[tuple[str, ...], _REQUIREMENTS]
    symptom: Annotated[str, string(".+", "a description of the problem")]
    source: Source
    constrain: Annotated[tuple[str, ...], _REQUIREMENTS] = ()
    l4t: Annotated[tuple[str, ...], strings(r"[0-9.*]+|none", "an L4T release or glob, or none")] = ()
    cuda: Annotated[tuple[str, ...], strings(r"[0-9.*]+", "a CUDA version or glob")] = ()
    sms: Annotated[tuple[str, ...], strings(r"[0-9]+\.[0-9]+", "a compute capability such as 8.7")] = ()
    index: Annotated[str | None, string(r"[a-z0-9*-]+", "an index's name or glob")] = None
    glibcxx_below: Annotated[str | None, string(r"[0-9]+\.[0-9]+\.[0-9]+", "such as 3.4.32")] = None
    needs_apt: Annotated[str | None, string()] = None
    log: Annotated[re.Pattern[str] | None, regex()] = None
    hint: Annotated[str, string()] = ""

    def rules(self, versions: Mapping[str, str]) -> tuple[str, ...]:
        """Return its constraints for these versions, without those that name an absent package."""
        templates = [(rule, _PLACEHOLDER.findall(rule)) for rule in self.constrain]
        return tuple(
            _PLACEHOLDER.sub(lambda match: versions[match[1]], rule)
            for rule, names in templates
            if all(name in versions for name in names)
        )


def _check_row(table: Table, row: Advisory, _: None) -> None:
    if not row.when:
        table.problem("when", "must name at least one requirement")
    if not row.constrain and not row.hint:
        table.problem("hint", "a row without `constrain` needs a hint")


_ADVISORY = declaration_of(Advisory, check=_check_row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The input of advisories: versions and index names by package, the platform, and the image's apt packages."""

    versions: Mapping[str, str]
    platform: Platform
    sources: Mapping[str, str] = field(default_factory=dict)
    apt: tuple[str, ...] = ()


@cache
def advisories(path: Path = _ADVISORIES) -> tuple[Advisory, ...]:
    """Return the rows of `advisories.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(path, "the advisories have mistakes", "advisories", _ADVISORY, once="id")


def applying(situation: Situation, ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories that apply to a situation, without the ignored ones."""
    ids = set(ignored)
    return tuple(advisory for advisory in advisories() if advisory.id not in ids and _applies(advisory, situation))


def broken(situation: Situation, ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories whose constraints a situation violates."""
    versions = situation.versions
    return tuple(
        advisory
        for advisory in applying(situation, ignored)
        if not all(_holds(rule, versions) for rule in advisory.rules(versions))
    )


def warnings(situation: Situation, ignored: Iterable[str] = ()) -> tuple[Advisory, ...]:
    """Return the advisories without a constraint: known problems of these wheels."""
    names = {package.partition("=")[0] for package in situation.apt}
    return tuple(
        advisory
        for advisory in applying(situation, ignored)
        if not advisory.constrain and advisory.needs_apt not in names
    )


def _applies(advisory: Advisory, situation: Situation) -> bool:
    platform = situation.platform
    for value, globs in ((platform.l4t or "none", advisory.l4t), (platform.cuda, advisory.cuda)):
        if globs and not any(fnmatch.fnmatchcase(value or "", glob) for glob in globs):
            return False
    if advisory.sms and not set(advisory.sms) & set(platform.sms):
        return False
    if advisory.glibcxx_below and version_numbers(platform.glibcxx) >= version_numbers(advisory.glibcxx_below):
        return False
    return any(_fits(when, situation.versions) and _comes_from(when, advisory, situation) for when in advisory.when)


def _comes_from(when: str, advisory: Advisory, situation: Situation) -> bool:
    source = situation.sources.get(canonicalize_name(Requirement(when).name), "default")
    return advisory.index is None or fnmatch.fnmatchcase(source, advisory.index)


def _fits(when: str, versions: Mapping[str, str]) -> bool:
    requirement = Requirement(when)
    version = versions.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _holds(rule: str, versions: Mapping[str, str]) -> bool:
    """Return whether a constraint holds; one on an absent package does."""
    return canonicalize_name(Requirement(rule).name) not in versions or _fits(rule, versions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptom:
    """The meaning of a log line and its usual fix."""

    pattern: Annotated[re.Pattern[str], regex()]
    says: Annotated[str, string()]
    hint: Annotated[str, string()]
    source: Annotated[str, string()]


_SYMPTOM = declaration_of(Symptom)


@cache
def symptoms(path: Path = SYMPTOMS) -> tuple[Symptom, ...]:
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


def symptoms_in(lines: Iterable[str]) -> tuple[Symptom, ...]:
    """Return the symptoms that match a log, in the table's order."""
    log = list(lines)
    return tuple(symptom for symptom in symptoms() if any(symptom.pattern.search(line) for line in log))

"""Solves a cell so that no advisory speaks against the answer."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import NoWheelsError, RecipeError
from builder.host import records
from builder.host.toml.documents import suggest
from builder.jetson import advisories
from builder.jetson.advisories import Situation
from builder.lock import lockfile
from builder.lock.solve import SolveRequest, solve
from builder.lock.torch_build import CHECKS
from builder.model.locks import LockedAdvisory, LockedWarning, LockedWheel

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.host.session import Session
    from builder.jetson.advisories import Advisory
    from builder.model.locks import Job
    from builder.remote.index.listing import IndexPins

# A constraint can bring in a version that another advisory speaks of, and so on; more rounds than this are a circle.
_ROUNDS = 6
_REMEMBERED_S = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """The wheels of a cell, the advisories that they keep, and what is known to go wrong with them all the same."""

    wheels: tuple[LockedWheel, ...]
    advisories: tuple[LockedAdvisory, ...]
    warnings: tuple[LockedWarning, ...]


def solve_with_advisories(job: Job, session: Session, question: SolveRequest, ties: IndexPins) -> Solution:
    """Return the wheels of a cell, and the advisories that they keep.

    Advisories of packages that the recipe pins are constraints from the start, as are those that the same question led
    to before; the others become so when an answer breaks them, and uv is asked again.

    Raises:
        NoWheelsError: no set of wheels satisfies the requirements and the advisories.
        LockError: uv cannot work.
        NetworkError: an index did not answer.
        RecipeError: the recipe ignores an advisory that does not exist.
    """
    _check_ignored(job.spec.ignored_advisories, job)
    pins = pinned(job.spec.requires)
    given = advisories.applying(_situation(job, pins, ties), job.spec.ignored_advisories)
    active = {each: each.rules(pins) for each in given}
    memory = _memory(job, question, session)
    learned = {} if question.upgrade else _recalled(memory)
    if learned := {each: rules for each, rules in learned.items() if each not in active}:
        solution = _again(job, session, question, ties, {**active, **learned})
        if solution and {each.id for each in learned} <= {each.id for each in solution.advisories}:
            return solution
    solution = _rounds(job, session, question, ties, active)
    if solution is None:
        raise NoWheelsError("advisories contradict each other", where=job.name, hint=_hint(active))
    records.write(memory, "", {each.id: rules for each, rules in active.items() if each not in given})
    return solution


def _again(
    job: Job, session: Session, question: SolveRequest, ties: IndexPins, active: dict[Advisory, tuple[str, ...]]
) -> Solution | None:
    """Ask uv with what was learned before; None: that no longer leads anywhere, and nothing is said of it."""
    try:
        return _rounds(job, session, question, ties, active)
    except NoWheelsError:
        return None


def _rounds(
    job: Job, session: Session, question: SolveRequest, ties: IndexPins, active: dict[Advisory, tuple[str, ...]]
) -> Solution | None:
    """Ask uv until no advisory speaks against the answer; `active` grows by those that did. None: it is a circle."""
    ignored = job.spec.ignored_advisories
    for _ in range(_ROUNDS):
        wheels = _solve(job, session, question, active)
        situation = _situation(job, {wheel.name: wheel.version for wheel in wheels}, ties)
        against = advisories.broken(situation, ignored)
        if not against:
            return _solution(wheels, situation, ignored)
        for advisory in against:
            active[advisory] = advisory.rules(situation.versions)
            rules = ", ".join(active[advisory])
            session.console.say(f"{job.cell.id}: advisory {advisory.id} asks for {rules} ({advisory.source})")
    return None


def _memory(job: Job, question: SolveRequest, session: Session) -> Path:
    """Return where the advisories are kept that a question leads to: asking it again then takes one round."""
    spec = question.spec
    asked = (spec.requires, spec.constraints, spec.replace, spec.ignored_advisories, spec.indexes, spec.sources)
    return session.workspace.advised(records.fingerprint(asked, spec.released_before, job.platform))


def _recalled(memory: Path) -> dict[Advisory, tuple[str, ...]]:
    """Return what a question led to within a day: later, newer versions may lead elsewhere."""
    try:
        fresh = time.time() - memory.stat().st_mtime < _REMEMBERED_S
    except FileNotFoundError:
        fresh = False
    found = records.read(memory, None, dict[str, tuple[str, ...]]) if fresh else None
    found = found or {}
    return {each: found[each.id] for each in advisories.advisories() if each.id in found}


def situation_of(job: Job, wheels: Iterable[LockedWheel]) -> Situation:
    """Return what advisories judge of a lock's wheels."""
    wheels = tuple(wheels)
    return Situation(
        versions={wheel.name: wheel.version for wheel in wheels},
        platform=job.platform,
        sources={wheel.name: wheel.index for wheel in wheels if wheel.index},
        apt=job.spec.apt,
    )


def pinned(requires: Iterable[str]) -> dict[str, str]:
    """Return the versions that requirements pin exactly, by normalised name."""
    pins = {}
    for requirement in map(Requirement, requires):
        for specifier in requirement.specifier:
            if specifier.operator == "==" and not specifier.version.endswith(".*"):
                pins[str(canonicalize_name(requirement.name))] = specifier.version
    return pins


def _situation(job: Job, versions: dict[str, str], ties: IndexPins) -> Situation:
    tied = {name: tie.index for name in versions if (tie := ties.of(name))}
    return Situation(versions=versions, platform=job.platform, sources=tied, apt=job.spec.apt)


def _solve(
    job: Job, session: Session, question: SolveRequest, active: dict[Advisory, tuple[str, ...]]
) -> tuple[LockedWheel, ...]:
    rules = tuple(rule for each in active.values() for rule in each)
    spec = replace(question.spec, constraints=(*question.spec.constraints, *rules))
    try:
        text = solve(replace(question, spec=spec), session.config, session.workspace)
    except NoWheelsError as error:
        # A constraint of ours may be what makes it impossible: say so where the explanation speaks of its package.
        concerned = {each: kept for each, kept in active.items() if _speaks_of(error.log or "", kept)}
        error.hint = "; ".join(filter(None, (error.hint, _hint(concerned) if concerned else None))) or None
        raise
    return lockfile.wheels_of(text, job.platform, job.name)


def _speaks_of(explanation: str, rules: Iterable[str]) -> bool:
    names = (re.escape(canonicalize_name(Requirement(rule).name)) for rule in rules)
    return any(re.search(rf"\b{name}[<>=!~]", explanation) for name in names)


def _hint(active: dict[Advisory, tuple[str, ...]]) -> str:
    kept = ", ".join(f"{advisory.id} ({', '.join(rules)})" for advisory, rules in active.items() if rules)
    return f"these advisories were kept: {kept}; to go against one, name it in `ignore-advisories` under [packages]"


def _solution(wheels: tuple[LockedWheel, ...], situation: Situation, ignored: Iterable[str]) -> Solution:
    return Solution(
        wheels=wheels,
        advisories=_locked(advisories.applying(situation, ignored), situation),
        warnings=tuple(
            LockedWarning(id=each.id, symptom=each.symptom, hint=each.hint, source=each.source)
            for each in advisories.warnings(situation, ignored)
        ),
    )


def _locked(kept: Iterable[Advisory], situation: Situation) -> tuple[LockedAdvisory, ...]:
    """Return those advisories that say something about a package that is there."""
    ruled = ((advisory, advisory.rules(situation.versions)) for advisory in kept)
    return tuple(
        LockedAdvisory(id=advisory.id, constrain=rules, source=advisory.source)
        for advisory, rules in ruled
        if any(canonicalize_name(Requirement(rule).name) in situation.versions for rule in rules)
    )


def _check_ignored(ignored: Iterable[str], job: Job) -> None:
    known = [*(advisory.id for advisory in advisories.advisories()), *CHECKS]
    for name in ignored:
        if name not in known:
            hint = suggest(name, known, noun="advisories")
            raise RecipeError(f"there is no advisory `{name}` to ignore", where=str(job.recipe.path), hint=hint)

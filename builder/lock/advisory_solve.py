"""Solves a cell so that the solution breaks no advisory."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import NoWheelsError, RecipeError
from builder.host import records
from builder.host.wording import suggest
from builder.jetson import advisories
from builder.jetson.advisories import Situation
from builder.lock import lockfile
from builder.lock.situation import pinned
from builder.lock.solve import SolveRequest, solve
from builder.lock.wheel_properties import CHECKS
from builder.model.locks import LockedAdvisory, LockedWarning

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.host.session import Session
    from builder.jetson.advisories import Advisory
    from builder.model.builds import SolvedSource
    from builder.model.locks import Job
    from builder.model.wheels import LockedWheel
    from builder.remote.index.listing import IndexPins

# A constraint can select a version that another advisory excludes, and so on; more rounds than this are a circle.
_ROUNDS = 6
_REMEMBERED_S = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """The wheels of a cell, the advisories that they satisfy, their known problems, and the sources to build."""

    wheels: tuple[LockedWheel, ...]
    advisories: tuple[LockedAdvisory, ...]
    warnings: tuple[LockedWarning, ...]
    sources: tuple[SolvedSource, ...] = ()


def solve_with_advisories(job: Job, session: Session, question: SolveRequest, ties: IndexPins) -> Solution:
    """Return the wheels of a cell, and the advisories that they satisfy.

    Advisories about packages that the recipe pins are constraints from the start, as are those that the same request
    led to before. Other advisories become constraints when a solution breaks them; uv then solves again.

    Raises:
        NoWheelsError: no set of wheels satisfies the requirements and the advisories.
        LockError: uv failed.
        NetworkError: an index did not answer.
        RecipeError: the recipe ignores an advisory that does not exist.
    """
    _check_ignored(job.spec.ignored_advisories, job)
    pins = pinned(job.spec.requires)
    applying = advisories.applying(_situation(job, pins, ties), job.spec.ignored_advisories)
    active = {advisory: advisory.rules(pins) for advisory in applying}
    memory = _memory(job, question, session)
    learned = {} if question.upgrade else _recalled(memory)
    if learned := {advisory: rules for advisory, rules in learned.items() if advisory not in active}:
        # The remembered advisories may no longer lead to a solution.
        with suppress(NoWheelsError):
            solution = _rounds(job, session, question, ties, {**active, **learned})
            if solution and {advisory.id for advisory in learned} <= {advisory.id for advisory in solution.advisories}:
                return solution
    solution = _rounds(job, session, question, ties, active)
    if solution is None:
        raise NoWheelsError("advisories contradict each other", where=job.name, hint=_hint(active))
    records.write(memory, "", {advisory.id: rules for advisory, rules in active.items() if advisory not in applying})
    return solution


def _rounds(
    job: Job, session: Session, question: SolveRequest, ties: IndexPins, active: dict[Advisory, tuple[str, ...]]
) -> Solution | None:
    """Solve until no advisory is broken, adding broken ones to `active`. Return None if advisories form a circle."""
    ignored = job.spec.ignored_advisories
    for _ in range(_ROUNDS):
        wheels = _solve(job, session, question, active)
        situation = _situation(job, {wheel.name: wheel.version for wheel in wheels}, ties)
        broken = advisories.broken(situation, ignored)
        if not broken:
            return _solution(wheels, situation, ignored)
        for advisory in broken:
            active[advisory] = advisory.rules(situation.versions)
            rules = ", ".join(active[advisory])
            session.console.say(f"{job.cell.id}: advisory {advisory.id} asks for {rules} ({advisory.source})")
    return None


def _memory(job: Job, question: SolveRequest, session: Session) -> Path:
    """Return the file that remembers a request's advisories, so that solving it again takes one round."""
    spec = question.spec
    inputs = (spec.requires, spec.constraints, spec.replace, spec.ignored_advisories, spec.indexes, spec.sources)
    return session.workspace.advised(records.fingerprint(inputs, spec.released_before, job.platform))


def _recalled(memory: Path) -> dict[Advisory, tuple[str, ...]]:
    """Return the remembered advisories if they are less than a day old: newer versions may change them."""
    try:
        fresh = time.time() - memory.stat().st_mtime < _REMEMBERED_S
    except FileNotFoundError:
        return {}
    recalled = (records.read(memory, None, dict[str, tuple[str, ...]]) if fresh else None) or {}
    return {advisory: recalled[advisory.id] for advisory in advisories.advisories() if advisory.id in recalled}


def _situation(job: Job, versions: dict[str, str], ties: IndexPins) -> Situation:
    sources = {name: tie.index for name in versions if (tie := ties.of(name))}
    return Situation(versions=versions, platform=job.platform, sources=sources, apt=job.spec.apt)


def _solve(
    job: Job, session: Session, question: SolveRequest, active: dict[Advisory, tuple[str, ...]]
) -> tuple[LockedWheel, ...]:
    constraints = tuple(rule for rules in active.values() for rule in rules)
    spec = replace(question.spec, constraints=(*question.spec.constraints, *constraints))
    try:
        text = solve(replace(question, spec=spec), session.config, session.workspace)
    except NoWheelsError as error:
        # An advisory's constraint may cause the conflict: the hint names those about packages of the explanation.
        concerned = {advisory: rules for advisory, rules in active.items() if _mentions(error.log or "", rules)}
        error.hint = "; ".join(filter(None, (error.hint, _hint(concerned) if concerned else None))) or None
        raise
    return lockfile.wheels_of(text, job.platform, job.name)


def _mentions(explanation: str, rules: Iterable[str]) -> bool:
    names = (re.escape(canonicalize_name(Requirement(rule).name)) for rule in rules)
    return any(re.search(rf"\b{name}[<>=!~]", explanation) for name in names)


def _hint(active: dict[Advisory, tuple[str, ...]]) -> str:
    constraints = ", ".join(f"{advisory.id} ({', '.join(rules)})" for advisory, rules in active.items() if rules)
    return f"advisories apply: {constraints}; to ignore one, add its id to `ignore-advisories` under [packages]"


def _solution(wheels: tuple[LockedWheel, ...], situation: Situation, ignored: Iterable[str]) -> Solution:
    return Solution(
        wheels=wheels,
        advisories=_locked(advisories.applying(situation, ignored), situation),
        warnings=tuple(
            LockedWarning(id=warning.id, symptom=warning.symptom, hint=warning.hint, source=warning.source)
            for warning in advisories.warnings(situation, ignored)
        ),
    )


def _locked(applying: Iterable[Advisory], situation: Situation) -> tuple[LockedAdvisory, ...]:
    """Return the advisories with a rule about a locked package."""
    ruled = ((advisory, advisory.rules(situation.versions)) for advisory in applying)
    return tuple(
        LockedAdvisory(id=advisory.id, constrain=rules, source=advisory.source)
        for advisory, rules in ruled
        if any(canonicalize_name(Requirement(rule).name) in situation.versions for rule in rules)
    )


def _check_ignored(ignored: Iterable[str], job: Job) -> None:
    ids = [*(advisory.id for advisory in advisories.advisories()), *CHECKS]
    for name in ignored:
        if name not in ids:
            hint = suggest(name, ids, noun="advisories")
            raise RecipeError(f"there is no advisory `{name}` to ignore", where=str(job.recipe.path), hint=hint)

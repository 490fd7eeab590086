"""Explains a cell: why it does not resolve, or why its large packages have their versions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.errors import JbuildError, NoWheelsError
from builder.host.index_rows import DEFAULT
from builder.jetson.packages import never_released
from builder.lock.alternatives import Alternative, alternatives_of
from builder.lock.graph import asks_of, built_metadata, metadata_of
from builder.lock.index_sources import index_pins_of
from builder.lock.inspect_index import IndexContents, IndexInspector, requirements_in
from builder.lock.resolve import solve_only
from builder.lock.situation import pinned
from builder.lock.stage import current_lock
from builder.lock.unanswered_index import explained
from builder.model.locks import LEADING, Lock
from builder.remote.index.index_client import IndexUnreachableError, client_of

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.lock.advisory_solve import Solution
    from builder.lock.graph import Requester
    from builder.model.builds import LockedBuild
    from builder.model.locks import Job
    from builder.model.wheels import LockedWheel
    from builder.remote.index.index_client import IndexClient

_BIG = 50 << 20
_MOST_BIG = 16
_EXAMINED = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a package has its version: the requests and rules for it, and those that exclude the newest one.

    `built` is the source of a package that is built.
    """

    name: str
    version: str
    index: str
    asks: tuple[str, ...]
    newest: str | None = None
    held_by: tuple[str, ...] = ()
    built: str | None = field(default=None, metadata={"json": "optional"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """The explanation of a cell. `resolves` decides which half of the fields is set.

    `explanation` is the solver's output; `examined` are the indexes' wheels for the requirements in it.
    """

    resolves: bool
    reasons: tuple[Reason, ...] = ()
    rules: tuple[str, ...] = ()
    error: str = ""
    explanation: str = ""
    never_released: tuple[str, ...] = ()
    examined: tuple[IndexContents, ...] = ()
    neighbours: tuple[Alternative, ...] = ()


def why(job: Job, session: Session) -> Why:
    """Explain a cell, from its lock if that is current, or else by solving it.

    Raises:
        JbuildError: the cell cannot be solved for another reason than a conflict.
    """
    client = client_of(session.config, session.workspace.index_states)
    lock = current_lock(job, session)
    if lock:
        return _resolved(job, lock, client, session)
    try:
        solution = solve_only(job, session, client)
    except NoWheelsError as error:
        return _unresolved(job, error, client, session)
    except IndexUnreachableError as error:
        inspector = IndexInspector(job=job, session=session, client=client, ties=index_pins_of(job, session.config))
        raise explained(error, inspector) from error
    return _resolved(job, solution, client, session)


def _resolved(job: Job, solved: Lock | Solution, client: IndexClient, session: Session) -> Why:
    wheels = solved.wheels
    ties = index_pins_of(job, session.config)
    with session.console.task(f"{job.cell.id}: reading the metadata of {len(wheels)} wheels"):
        metadata, unreadable = metadata_of(wheels, ties, client, session.workspace)
    builds = solved.builds or () if isinstance(solved, Lock) else ()
    if isinstance(solved, Lock):
        metadata |= built_metadata(solved, job, session.workspace)
    asks = asks_of(job.spec, metadata, job.platform)
    examiner = IndexInspector(job=job, session=session, client=client, ties=ties)
    big = sorted((w for w in wheels if (w.size or 0) >= _BIG and w.name not in LEADING), key=lambda w: -(w.size or 0))
    shown_wheels = [wheel for name in LEADING for wheel in wheels if wheel.name == name] + big[:_MOST_BIG]
    rules = _constraints(job, solved)
    reasons = tuple(_reason(wheel, asks.get(wheel.name, ()), rules, examiner) for wheel in shown_wheels)
    reasons += tuple(_build_reason(build, asks.get(build.name, ()), rules) for build in builds)
    rule_texts = tuple(f"{rule.rule} ({rule.why})" for rule in solved.rules) if isinstance(solved, Lock) else ()
    unread = (f"the metadata of {', '.join(unreadable)} could not be read",) if unreadable else ()
    return Why(resolves=True, reasons=reasons, rules=(*rule_texts, *unread))


def _constraints(job: Job, solved: Lock | Solution) -> list[tuple[Requirement, str]]:
    rules = [(text, "the recipe's constraints") for text in job.spec.constraints]
    rules += [(text, f"advisory {advisory.id}") for advisory in solved.advisories for text in advisory.constrain]
    return [(Requirement(text), source) for text, source in rules]


def _build_reason(build: LockedBuild, asks: tuple[Requester, ...], rules: list[tuple[Requirement, str]]) -> Reason:
    """Return why a package that is built has its version; the index's wheels say nothing about its sources."""
    requests = [ask.words for ask in asks]
    requests += [f"{source}: {rule}" for rule, source in rules if canonicalize_name(rule.name) == build.name]
    return Reason(
        name=build.name,
        version=build.version,
        index=build.source.index or DEFAULT,
        asks=tuple(requests),
        built=build.source.words,
    )


def _reason(
    wheel: LockedWheel, asks: tuple[Requester, ...], rules: list[tuple[Requirement, str]], examiner: IndexInspector
) -> Reason:
    requests = [(ask.words, ask.requirement) for ask in asks]
    requests += [(f"{source}: {rule}", rule) for rule, source in rules if canonicalize_name(rule.name) == wheel.name]
    try:
        newest = examiner.newest(wheel.name)
    except JbuildError:
        # If the index is down, the other reasons remain.
        newest = None
    newer = newest if newest and newest > Version(wheel.version) else None
    return Reason(
        name=wheel.name,
        version=wheel.version,
        index=wheel.index or examiner.index_of(wheel.name).name,
        asks=tuple(words for words, _ in requests),
        newest=str(newest) if newest else None,
        held_by=tuple(
            words for words, rule in requests if newer and not rule.specifier.contains(newer, prereleases=True)
        ),
    )


def _unresolved(job: Job, error: NoWheelsError, client: IndexClient, session: Session) -> Why:
    examiner = IndexInspector(job=job, session=session, client=client, ties=index_pins_of(job, session.config))
    mentioned = (*map(Requirement, job.spec.requires), *requirements_in(error.log or ""))
    requirements = {str(requirement): requirement for requirement in mentioned}
    with session.console.task(f"{job.cell.id}: inspecting the indexes") as task:
        examined = []
        for requirement in list(requirements.values())[:_EXAMINED]:
            task.note(str(requirement))
            examined.append(examiner.examine(requirement))
    hopeless = [requirement for requirement in examined if requirement.hopeless]
    with session.console.task(f"{job.cell.id}: trying alternatives"):
        alternatives = alternatives_of(job, hopeless or examined, client, session)
    missing = (never_released(name, version) for name, version in pinned(job.spec.requires).items())
    return Why(
        resolves=False,
        error=error.message,
        explanation=error.log or "",
        never_released=tuple(text for text in missing if text),
        examined=tuple(hopeless or examined),
        neighbours=alternatives,
    )

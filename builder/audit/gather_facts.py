"""Brings the facts of many wheels: from the cache where they are, else read on all processors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit import facts_cache
from builder.audit.byte_source import MalformedError
from builder.audit.wheel_facts import READER, assemble, jobs, read_members
from builder.audit.wheel_reader import listing
from builder.errors import IntegrityError
from builder.host.concurrency import workers
from builder.host.files import mark_used, sha256_of
from builder.model.audits import WheelFacts
from builder.remote.wheelhouse import fetch, path_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future, ProcessPoolExecutor
    from pathlib import Path

    from builder.audit.wheel_reader import WheelMembers
    from builder.host.session import Session
    from builder.model.audits import Binary
    from builder.model.locks import LockedWheel

    _Read = tuple[list[Binary], list[tuple[str, str]]]


def gather(wheels: Sequence[LockedWheel], session: Session) -> dict[str, WheelFacts]:
    """Return the facts of each wheel by its sha256; wheels that are not in the wheelhouse are fetched.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be had or is damaged, or its facts cannot be kept.
    """
    places = {wheel.sha256: _place(wheel.sha256, session) for wheel in wheels}
    found = {
        sha256: facts for sha256, place in places.items() if mark_used(place) and (facts := facts_cache.read(place))
    }
    missing = {wheel.sha256: wheel for wheel in wheels if wheel.sha256 not in found}
    if missing:
        fetch(list(missing.values()), session)
        paths = {sha256: path_of(wheel, session.workspace.wheels) for sha256, wheel in missing.items()}
        found |= read_wheels(paths, session)
        for sha256 in missing:
            if found[sha256].flaws:
                _check(paths[sha256], sha256)
            facts_cache.write(places[sha256], found[sha256])
    return found


def _check(path: Path, sha256: str) -> None:
    """Make sure that what is wrong with a wheel is wrong with the wheel, and not with this disk."""
    if sha256_of(path) == sha256:
        return
    path.unlink(missing_ok=True)
    hint = "run the same command again: it is fetched anew"
    raise IntegrityError(f"{path.name} was damaged on this disk", where=str(path), hint=hint)


def gather_files(paths: dict[str, Path], session: Session) -> dict[str, WheelFacts]:
    """Return the facts of wheel files by their sha256.

    Raises:
        DiskError: the facts cannot be kept.
    """
    places = {sha256: _place(sha256, session) for sha256 in paths}
    found = {
        sha256: facts for sha256, place in places.items() if mark_used(place) and (facts := facts_cache.read(place))
    }
    missing = {sha256: path for sha256, path in paths.items() if sha256 not in found}
    if missing:
        found |= read_wheels(missing, session)
        for sha256 in missing:
            facts_cache.write(places[sha256], found[sha256])
    return found


def _place(sha256: str, session: Session) -> Path:
    return session.workspace.facts / sha256[:2] / f"{sha256}-{READER}"


def read_wheels(paths: dict[str, Path], session: Session) -> dict[str, WheelFacts]:
    """Read wheels on all processors; one that is no zip has that as its only fact."""
    listings: dict[str, WheelMembers] = {}
    found: dict[str, WheelFacts] = {}
    for sha256, path in paths.items():
        try:
            listings[sha256] = listing(path)
        except MalformedError as error:
            found[sha256] = WheelFacts(flaws=((path.name, error.message),))
    read = _read_all({sha256: (paths[sha256], each) for sha256, each in listings.items()}, session)
    for sha256, each in listings.items():
        binaries = [binary for part in read[sha256] for binary in part[0]]
        flaws = [flaw for part in read[sha256] for flaw in part[1]]
        found[sha256] = assemble(paths[sha256], each, binaries, flaws)
    return found


def _read_all(wheels: dict[str, tuple[Path, WheelMembers]], session: Session) -> dict[str, list[_Read]]:
    portions = [
        (sum(member.size for member in members), sha256, path, members)
        for sha256, (path, each) in wheels.items()
        for members in jobs(each)
    ]
    # The largest first: the last to end should be a small one.
    portions.sort(key=lambda portion: -portion[0])
    total = sum(portion[0] for portion in portions)
    read: dict[str, list[_Read]] = {sha256: [] for sha256 in wheels}
    title = f"reading {len(wheels)} wheels"
    with session.console.task(title, total) as task, workers() as pool:
        for size, sha256, future in _submitted(portions, pool):
            read[sha256].append(future.result())
            task.advance(size)
    return read


def _submitted(
    portions: Sequence[tuple[int, str, Path, tuple[object, ...]]], pool: ProcessPoolExecutor
) -> list[tuple[int, str, Future[_Read]]]:
    return [
        (size, sha256, pool.submit(read_members, path, members))  # type: ignore[arg-type]
        for size, sha256, path, members in portions
    ]

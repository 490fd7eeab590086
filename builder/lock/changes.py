"""The differences between two locks of a cell, with their reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.lock.graph import RECIPE, Requester, asks_of, metadata_of
from builder.lock.index_sources import index_pins_of
from builder.model.locks import LockChange

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.remote.index.index_client import IndexClient

_NAMED = 3


def changes_of(
    before: Lock | None, after: Lock, job: Job, client: IndexClient, session: Session, *, upgrade: tuple[str, ...] = ()
) -> tuple[LockChange, ...]:
    """Return the differences between a lock and the previous one, sorted by name; none without a previous lock."""
    if before is None:
        return ()
    changed = _differing(before, after)
    if not changed:
        return ()
    with session.console.task(f"{job.cell.id}: finding out why {len(changed)} packages changed"):
        # Without an answer of the server, the reason is missing, but not the lock.
        metadata, _ = metadata_of(after.wheels, index_pins_of(job, session.config), client, session.workspace)
    asks = asks_of(job.spec, metadata, job.platform)
    return tuple(_explained(change, asks, before, after, job, upgrade) for change in changed)


def _differing(before: Lock, after: Lock) -> list[LockChange]:
    old, new = ({wheel.name: wheel for wheel in lock.wheels} for lock in (before, after))
    return [
        LockChange(
            name=name,
            before=old[name].version if name in old else None,
            after=new[name].version if name in new else None,
        )
        for name in sorted({*old, *new})
        if name not in old or name not in new or old[name].sha256 != new[name].sha256
    ]


def _explained(
    change: LockChange,
    asks: dict[str, tuple[Requester, ...]],
    before: Lock,
    after: Lock,
    job: Job,
    upgrade: tuple[str, ...],
) -> LockChange:
    why = _why(change, asks, before, after, job, upgrade)
    return LockChange(name=change.name, before=change.before, after=change.after, why=why)


def _why(
    change: LockChange,
    asks: dict[str, tuple[Requester, ...]],
    before: Lock,
    after: Lock,
    job: Job,
    upgrade: tuple[str, ...],
) -> str | None:
    requesters = asks.get(change.name, ())
    if change.after is None:
        return "nothing requires it any more"
    if change.before is None:
        return _joined(requesters) or None
    moved = f"it comes from {after.sources.get(change.name) or 'the default index'} now"
    upgraded = "its upgrade was requested"
    against = tuple(
        ask for ask in requesters if not ask.requirement.specifier.contains(change.before, prereleases=True)
    )
    return (
        (upgraded if change.name in upgrade else None)
        or _joined(against)
        or _rule(change, job, after)
        or (moved if before.sources.get(change.name) != after.sources.get(change.name) else None)
        or (upgraded if "*" in upgrade else None)
        or "the locked file is no longer offered, or no longer fits the others"
    )


def _rule(change: LockChange, job: Job, after: Lock) -> str | None:
    """Return the constraint of the recipe or of an advisory that the previous version breaks."""
    rules = [(text, "a constraint of the recipe") for text in job.spec.constraints]
    rules += [(text, f"advisory {advisory.id}") for advisory in after.advisories for text in advisory.constrain]
    for text, source in rules:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == change.name and not requirement.specifier.contains(
            change.before or "", prereleases=True
        ):
            return f"{source} asks for {text}"
    return None


def _joined(asks: tuple[Requester, ...]) -> str:
    # The recipe comes before packages.
    ordered = sorted(asks, key=lambda ask: ask.by != RECIPE)
    more = len(ordered) - _NAMED
    text = " and ".join(ask.words for ask in ordered[:_NAMED])
    return f"{text} and {more} more" if more > 0 else text

"""Checks that what is to be upgraded is there at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import LockError, UsageError
from builder.host.toml.documents import nearest
from builder.lock import lockfile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import Job

_ALL = "*"


def check_upgrades(jobs: Sequence[Job], names: Sequence[str], session: Session) -> None:
    """Make sure that each package to upgrade is one of the cells' own, as far as their locks tell.

    Raises:
        UsageError: all cells have locks, and none of them has it.
    """
    known: set[str] = set()
    for job in jobs:
        versions = _locked(job, session)
        if versions is None:
            # What this cell will have is not known yet.
            return
        known |= versions | {str(canonicalize_name(Requirement(text).name)) for text in job.spec.requires}
    for name in names:
        if name != _ALL and name not in known:
            near = nearest(name, known)
            hint = f"did you mean `{near}`?" if near else f"`jbuild show {jobs[0].recipe.name} --json` lists them"
            raise UsageError(f"--upgrade: no selected cell has a package {name}", hint=hint)


def _locked(job: Job, session: Session) -> set[str] | None:
    try:
        lock = lockfile.read(
            session.workspace.lock(job.recipe.name, job.cell.id), recipe=job.recipe.name, cell=job.cell.id
        )
    except LockError:
        # Locking itself says what is wrong with it.
        return None
    return set(lock.versions) if lock else None

"""Checks that the packages to upgrade exist."""

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
    """Check that the cells have each package to upgrade, as far as their locks show.

    Raises:
        UsageError: all cells have locks, but none of them has the package.
    """
    if not names:
        return
    names_of_cells: set[str] = set()
    for job in jobs:
        versions = _locked_names(job, session)
        if versions is None:
            # The packages of this cell are not known yet.
            return
        names_of_cells |= versions | {str(canonicalize_name(Requirement(text).name)) for text in job.spec.requires}
    for name in names:
        if name != _ALL and name not in names_of_cells:
            closest = nearest(name, names_of_cells)
            hint = f"did you mean `{closest}`?" if closest else f"`jbuild show {jobs[0].recipe.name} --json` lists them"
            raise UsageError(f"--upgrade: no selected cell has a package {name}", hint=hint)


def _locked_names(job: Job, session: Session) -> set[str] | None:
    try:
        lock = lockfile.read(
            session.workspace.lock(job.recipe.name, job.cell.id), recipe=job.recipe.name, cell=job.cell.id
        )
    except LockError:
        # Locking reports the damage.
        return None
    return set(lock.versions) if lock else None

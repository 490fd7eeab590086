"""What a cell is made from, as fingerprints by part: two states of a project differ in a cell if these do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder import __version__, records
from builder.audit.tables import table_digest
from builder.image import runtime
from builder.image.layers import groups
from builder.image.pack import how
from builder.jetson.advisories import Situation, applying
from builder.publish.where import targets
from builder.resolve import lockfile
from builder.resolve.advised import pinned, situation_of
from builder.resolve.jobs import job_of
from builder.resolve.model import LOCK_FORMAT
from builder.resolve.sources import ties_of
from builder.workspace import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.recipe.model import Cell, Recipe
    from builder.resolve.model import Job, Lock
    from builder.session import Session
    from builder.workspace import Workspace

Parts = dict[str, str]


def cells_of(recipe: Recipe, cells: Iterable[Cell], session: Session) -> dict[str, Parts]:
    """Return the fingerprints of every cell that can be built, by its id and by part.

    Raises:
        JbuildError: a lock is damaged, or a cell names an index that is not known.
    """
    shared = {"templates": _templates(session.workspace), "jbuild": _jbuild(), "audit": table_digest()}
    return {cell.id: {**_own(job_of(recipe, cell), session), **shared} for cell in cells if not cell.impossible}


def _own(job: Job, session: Session) -> Parts:
    workspace = session.workspace
    path = workspace.lock(job.recipe.name, job.cell.id)
    lock = lockfile.read(path, recipe=job.recipe.name, cell=job.cell.id)
    pins = [_sha256(each) for each in (path, workspace.model_lock(job.recipe.name), workspace.systems)]
    return {
        "recipe": records.fingerprint(job.spec, job.recipe.description, job.recipe.boards),
        "platform": records.fingerprint(job.platform),
        "knowledge": records.fingerprint(_knowledge(job, lock)),
        "lock": records.fingerprint(pins),
        "golden": records.fingerprint(_sha256(workspace.golden(job.recipe.path))),
        "settings": records.fingerprint(_settings(job, session)),
    }


def _knowledge(job: Job, lock: Lock | None) -> Any:
    """Return the rows of advisories that speak of the cell's wheels, or of those that its recipe pins."""
    if lock:
        situation = situation_of(job, lock.wheels)
    else:
        situation = Situation(versions=pinned(job.spec.requires), platform=job.platform, apt=job.spec.apt)
    return [(each.id, each.constrain) for each in applying(situation, job.spec.ignored_advisories)]


def _settings(job: Job, session: Session) -> Any:
    """Return what of the configuration reaches the cell."""
    config = session.config
    sources = [model.source for model in job.spec.models]
    mirrors = [rule for rule in config.model_mirrors if any(source.startswith(rule.source) for source in sources)]
    # As they are written: another state of the project lies in another folder.
    folders = [rule.written for rule in mirrors]
    where = (
        targets(job.spec.publish, (), config),
        config.mirrored(job.base),
        config.hub_endpoint,
        config.python_mirror,
    )
    ties = [(tie.packages, tie.index) for tie in ties_of(job, config).ties]
    return ties, records.plain(where), folders, how(config.compression)


def _templates(workspace: Workspace) -> str:
    """Return the fingerprint of the templates, the user's own first, and of the scripts that images run."""
    found = [
        (number, str(path.relative_to(folder)), sha256_of(path))
        for number, folder in enumerate(workspace.template_folders)
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".j2", ".sh"}
    ]
    return records.fingerprint(found, [(path.name, sha256_of(path)) for path in runtime.scripts()])


def _jbuild() -> str:
    return records.fingerprint(__version__, LOCK_FORMAT, groups())


def _sha256(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None

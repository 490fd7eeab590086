"""The small project in a bundle: recipe, patches, golden tokens, templates, locks and records of one cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import DiskError
from builder.model.bundles import PROJECT_FOLDER
from builder.publish.bundle.members import BundleMember, text_member

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.model.locks import Job

# The records of the stages, and whether a bundle has them without a passed verdict.
_RECORDS = ("wheel", "audit", "render", "build")
_VERDICT_RECORD = "smoke"


def project_members(job: Job, session: Session, *, proven: bool) -> Iterator[BundleMember]:
    """Yield the files of a project with one cell; the verdict's record only if the image has passed.

    Raises:
        DiskError: a file cannot be read.
    """
    workspace, recipe = session.workspace, job.recipe
    sources = {f"recipes/{recipe.name}.toml": recipe.path}
    sources[f"recipes/golden/{recipe.name}.toml"] = workspace.golden(recipe.path)
    builds = recipe.spec.builds, *(rule.builds for rule in recipe.overrides)
    patches = {patch for listed in builds if listed for build in listed.packages for patch in build.all_patches}
    sources |= {f"recipes/{patch}": recipe.path.parent / patch for patch in sorted(patches)}
    sources |= {f"dockerfiles/{path.name}": path for path in _templates(job, session)}
    for path in (workspace.lock(recipe.name, job.cell.id), workspace.model_lock(recipe.name), workspace.systems):
        sources[path.relative_to(workspace.project).as_posix()] = path
    folder = workspace.cell(recipe.name, job.cell.id)
    for stage in _RECORDS:
        path = folder.record(stage)
        sources[path.relative_to(workspace.project).as_posix()] = path
    for inside, path in sources.items():
        if path.is_file():
            yield text_member(f"{PROJECT_FOLDER}/{inside}", _read(path))
    if proven:
        path = folder.record(_VERDICT_RECORD)
        inside = path.relative_to(workspace.project).as_posix()
        yield text_member(f"{PROJECT_FOLDER}/{inside}", _without_folder(_read(path)))


def _templates(job: Job, session: Session) -> list[Path]:
    """Return the project's own templates, which may include each other, if the cell uses one of them."""
    folder = session.workspace.project / "dockerfiles"
    own = folder / job.spec.template
    return sorted(folder.glob("*.j2")) if own.is_file() else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "check the file's owner"
        raise DiskError(f"cannot read: {error.strerror}", where=str(path), hint=hint) from error


def _without_folder(record: bytes) -> bytes:
    """Return the record of a verdict without the folder of its log, which is private to this machine."""
    body = json.loads(record)
    body["record"]["log"] = Path(body["record"]["log"]).name
    return json.dumps(body, indent=2, sort_keys=True).encode() + b"\n"

"""System layers that were built once and are pinned by digest: the step that a package mirror's state decides.

Snapshots of a mirror would do for Debian alone: NVIDIA's repositories, in every Jetson base, keep none. A pinned layer
works for all, and leaves nothing to emulate in later builds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.host.files import write_text
from builder.host.toml import documents
from builder.image.render import image_labels
from builder.image.render.dockerfile import render as render_dockerfile
from builder.image.wheels.tree import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.host.config import Config
    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.host.toml.documents import Table
    from builder.model.locks import Job, Lock

SCRIPT = "system/install.sh"
_IMAGE = r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
_HEAD = """# System layers that `jbuild system` built and pushed once, by what they are made of. Commit this file:
# whoever has it builds on the same packages. `jbuild system RECIPE --force` takes the package mirror's newer ones.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemLayer:
    """One pinned layer: the key of what it is made of, the repository that holds it, its digest, and what it is for."""

    key: str
    image: str
    digest: str
    note: str

    def reference(self, config: Config) -> str:
        """Return what an image is built on, after mirror rules."""
        return f"{config.mirrored(self.image)[0]}@{self.digest}"


def values_of(job: Job, lock: Lock) -> dict[str, Any]:
    """Return what the templates know of the step that installs packages."""
    packages = sorted({*lock.platform.python_packages, *job.spec.apt})
    return {
        "base": f"{lock.base.used.rpartition('@')[0] or lock.base.used}@{lock.base.digest}",
        "system_command": (
            "/bin/sh",
            "/run/jbuild/install.sh",
            str(EPOCH),
            str(image_labels.UID),
            image_labels.USER,
            *packages,
        ),
        "platform": lock.platform,
        "values": dict(job.cell.values),
    }


def script_of(workspace: Workspace) -> str:
    """Return the script that installs packages, the user's own if there is one."""
    found = [folder / SCRIPT for folder in workspace.template_folders]
    return next(path for path in found if path.is_file()).read_text(encoding="utf-8")


def dockerfile_of(job: Job, lock: Lock, session: Session) -> str:
    """Render the Dockerfile of a cell's system layer alone.

    Raises:
        RecipeError: the template has a mistake.
    """
    values = {**values_of(job, lock), "system": None, "system_only": True}
    return render_dockerfile(job.spec.template, session.workspace.template_folders, values)


def key_of(job: Job, lock: Lock, session: Session) -> str:
    """Return what identifies a cell's system layer: base digest, packages, script and architecture decide it."""
    parts = (dockerfile_of(job, lock, session), script_of(session.workspace), lock.platform.architecture)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def pinned(job: Job, lock: Lock, session: Session) -> SystemLayer | None:
    """Return the layer that the project pins for a cell, if it does.

    Raises:
        DocumentError: the file of pins has mistakes.
    """
    rows = read_systems(session.workspace.systems)
    if not rows:
        return None
    key = key_of(job, lock, session)
    return next((row for row in rows if row.key == key), None)


def pin(row: SystemLayer, workspace: Workspace) -> None:
    """Write a layer into the project's file of pins, in place of an earlier one of the same key.

    Raises:
        DocumentError: the file has mistakes.
        DiskError: it cannot be written.
    """
    path = workspace.systems
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    with workspace.file_lock(f"systems-{name}"):
        kept = [other for other in read_systems(path) if other.key != row.key]
        write_text(path, _text([*kept, row]))


def read_systems(path: Path) -> tuple[SystemLayer, ...]:
    """Return the pins of a file; none if there is no file.

    Raises:
        DocumentError: it has mistakes.
    """
    if not path.is_file():
        return ()
    return documents.load(path, "the pinned system layers have mistakes", _parse)


def _parse(root: Table) -> tuple[SystemLayer, ...]:
    rows = []
    for table in root.tables("systems"):
        rows.append(
            SystemLayer(
                key=table.string("key", pattern="[0-9a-f]{32}", noun="32 hexadecimal digits"),
                image=table.string("image", pattern=_IMAGE, noun="a repository such as host:5000/team/jbuild-system"),
                digest=table.string("digest", pattern="sha256:[0-9a-f]{64}", noun="a digest"),
                note=table.string("note", ""),
            )
        )
        table.done()
    return tuple(rows)


def _text(rows: Iterable[SystemLayer]) -> str:
    import tomli_w  # noqa: PLC0415  # only pinning needs it

    found = [
        {"key": row.key, "image": row.image, "digest": row.digest, "note": row.note}
        for row in sorted(rows, key=lambda row: row.key)
    ]
    return f"{_HEAD}\n{tomli_w.dumps({'systems': found})}"

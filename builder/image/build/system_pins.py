"""System layers, built once and pinned by digest: this step depends on the state of a package mirror.

Mirror snapshots exist for Debian, but not for NVIDIA's repositories, which every Jetson base uses. A pinned layer works
for all, and later builds need no emulation.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from builder.host.files import write_text
from builder.host.toml import documents
from builder.image.render import image_labels
from builder.image.render.dockerfile import render as render_dockerfile
from builder.model.images import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.host.config import Config
    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.host.toml.tables import Table
    from builder.model.locks import Job, Lock

SCRIPT = "system/install.sh"
_IMAGE = r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
_HEAD = """# System layers that `jbuild system` built and pushed, by the key of their inputs. Commit this file:
# all builds with it use the same packages. `jbuild system RECIPE --force` takes newer packages of the mirror.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemLayer:
    """One pinned layer: the key of its inputs, its repository and digest, and a note."""

    key: str
    image: str
    digest: str
    note: str

    def reference(self, config: Config) -> str:
        """Return the reference of the layer's image, after mirror rules."""
        return f"{config.mirrored(self.image)[0]}@{self.digest}"


def pinned_base(lock: Lock) -> str:
    """Return the reference of a lock's base image, by digest."""
    return f"{lock.base.used.rpartition('@')[0] or lock.base.used}@{lock.base.digest}"


def values_of(job: Job, lock: Lock) -> dict[str, Any]:
    """Return the template values of the step that installs packages."""
    packages = sorted({*lock.platform.python_packages, *job.spec.apt})
    user = (str(image_labels.UID), image_labels.USER)
    return {
        "base": pinned_base(lock),
        "system_command": ("/bin/sh", "/run/jbuild/install.sh", str(EPOCH), *user, *packages),
        "platform": lock.platform,
        "values": dict(job.cell.values),
    }


def script_of(workspace: Workspace) -> str:
    """Return the script that installs packages: the user's, if there is one."""
    candidates = [folder / SCRIPT for folder in workspace.template_folders]
    return next(path for path in candidates if path.is_file()).read_text(encoding="utf-8")


def dockerfile_of(job: Job, lock: Lock, session: Session) -> str:
    """Render the Dockerfile of a cell's system layer alone.

    Raises:
        RecipeError: the template has a mistake.
    """
    values = {**values_of(job, lock), "system": None, "system_only": True}
    return render_dockerfile(job.spec.template, session.workspace.template_folders, values)


def key_of(job: Job, lock: Lock, session: Session) -> str:
    """Return the key of a cell's system layer, from base digest, packages, script and architecture."""
    inputs = (dockerfile_of(job, lock, session), script_of(session.workspace), lock.platform.architecture)
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:32]


def pinned(job: Job, lock: Lock, session: Session) -> SystemLayer | None:
    """Return the layer that the project pins for a cell, or None.

    Raises:
        DocumentError: the file of pins has mistakes.
    """
    rows = read_systems(session.workspace.systems)
    key = key_of(job, lock, session) if rows else None
    return next((row for row in rows if row.key == key), None)


def pin(row: SystemLayer, workspace: Workspace) -> None:
    """Write a layer into the project's file of pins, replacing one with the same key.

    Raises:
        DocumentError: the file has mistakes.
        DiskError: it cannot be written.
    """
    path = workspace.systems
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    with workspace.file_lock(f"systems-{name}"):
        rest = [layer for layer in read_systems(path) if layer.key != row.key]
        write_text(path, _text([*rest, row]))


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

    tables = [asdict(row) for row in sorted(rows, key=lambda row: row.key)]
    return f"{_HEAD}\n{tomli_w.dumps({'systems': tables})}"

"""What this project's locks and built cells need of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import records
from builder.image.model import Image
from builder.models import pins
from builder.resolve import lockfile

if TYPE_CHECKING:
    from builder.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """The sha256 of wheels (and of interpreters' archives) and of models' files, and the digests of images."""

    wheels: frozenset[str]
    models: frozenset[str]
    images: frozenset[str]

    def of(self, name: str) -> frozenset[str]:
        """Return the contents of a kind that are needed."""
        return {"wheels": self.wheels, "models": self.models}.get(name, frozenset())


NOTHING = References(wheels=frozenset(), models=frozenset(), images=frozenset())


def references(workspace: Workspace) -> References:
    """Read all locks and records of the project.

    Raises:
        LockError: a lock is damaged or of another format, so what it needs is not known.
    """
    locks = [lockfile.read_file(path) for path in sorted((workspace.project / "locks").glob("*/pylock.*.toml"))]
    shared = [pin.model for path in (workspace.project / "locks").glob("*/models.toml") for pin in pins.read(path)]
    cells = sorted((workspace.project / "build").glob("*/*"))
    images = [records.read(path / "image.json", None, Image) for path in cells]
    interpreters = {lock.interpreter.sha256 for lock in locks if lock.interpreter}
    return References(
        wheels=frozenset(interpreters).union(wheel.sha256 for lock in locks for wheel in lock.wheels),
        models=frozenset(
            file.sha256 for model in (*shared, *(m for lock in locks for m in lock.models)) for file in model.files
        ),
        images=frozenset(image.digest for image in images if image),
    )

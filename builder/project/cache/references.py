"""The contents of the cache that this project's locks and built cells need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import LockError
from builder.host.paths import CellFolder
from builder.lock import lockfile
from builder.models import model_pins
from builder.pipeline.cell import CellRecords

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.paths import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """The sha256 of wheels (and of interpreters' archives) and of models' files, and the digests of images."""

    wheels: frozenset[str]
    models: frozenset[str]
    images: frozenset[str]

    def of(self, name: str) -> frozenset[str]:
        """Return the needed contents of a kind."""
        return {"wheels": self.wheels, "models": self.models}.get(name, frozenset())


NOTHING = References(wheels=frozenset(), models=frozenset(), images=frozenset())


def references(workspace: Workspace, on_unreadable: Callable[[LockError], object] | None = None) -> References:
    """Read all locks and records of the project; `on_unreadable` gets the errors of unreadable locks.

    Raises:
        LockError: a lock is damaged or of another format, and `on_unreadable` is None.
    """
    locks = []
    for path in sorted((workspace.project / "locks").glob("*/pylock.*.toml")):
        try:
            locks.append(lockfile.read_file(path))
        except LockError as error:
            if on_unreadable is None:
                raise
            on_unreadable(error)
    shared = [
        pin.model for path in (workspace.project / "locks").glob("*/models.toml") for pin in model_pins.read(path)
    ]
    cells = sorted((workspace.project / "build").glob("*/*"))
    images = [CellRecords(CellFolder(path=path)).image() for path in cells]
    interpreters = {lock.interpreter.sha256 for lock in locks if lock.interpreter}
    return References(
        wheels=frozenset(interpreters).union(wheel.sha256 for lock in locks for wheel in lock.wheels),
        models=frozenset(
            file.sha256 for model in (*shared, *(m for lock in locks for m in lock.models)) for file in model.files
        ),
        images=frozenset(image.digest for image in images if image),
    )

"""Which index each package comes from: a package that is tied to an index comes from there or not at all."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.host.index_rows import DEFAULT

if TYPE_CHECKING:
    from builder.remote.index.listing import Index


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPin:
    """Packages (a glob on normalised names) that come from one index only, and why."""

    packages: str
    index: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPins:
    """All ties of a cell, the first that matches counts, and the indexes that they name."""

    ties: tuple[IndexPin, ...] = ()
    indexes: tuple[Index, ...] = ()

    def of(self, project: str) -> IndexPin | None:
        """Return the tie of a package, or None if it comes from uv's own indexes."""
        found = next((tie for tie in self.ties if fnmatch.fnmatchcase(project, tie.packages)), None)
        return None if found is None or found.index == DEFAULT else found

    def index(self, project: str) -> Index | None:
        """Return the index that a package is tied to."""
        tie = self.of(project)
        return self.named(tie.index) if tie else None

    def named(self, name: str) -> Index:
        """Return an index by its name."""
        return next(index for index in self.indexes if index.name == name)

    def __bool__(self) -> bool:
        return any(tie.index != DEFAULT for tie in self.ties)

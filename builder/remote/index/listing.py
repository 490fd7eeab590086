"""Records of package indexes, of the files on their pages, and of the packages that are pinned to them."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from builder.host.index_rows import DEFAULT


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """An address of an index; `stand_in` is the reason if another index answers there, or None."""

    url: str
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A package index: its name and addresses; each address is used when those before it fail.

    `foreign_files` are path components of other indexes' files: a devpi index also lists those of the indexes that it
    inherits from. `upload_times` is True if its pages have upload times.
    """

    name: str
    addresses: tuple[Address, ...]
    foreign_files: tuple[str, ...] = ()
    upload_times: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """A file on a page. `yanked` is the reason, `""` if none is given; `upload_time` is ISO 8601; `size` in bytes.

    `metadata` is the sha256 of the METADATA that the index serves beside the wheel (PEP 658), `""` if it is served
    without a hash, None if it is not served.
    """

    filename: str
    url: str
    sha256: str | None = None
    requires_python: str | None = None
    yanked: str | None = None
    upload_time: str | None = None
    size: int | None = None
    metadata: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectPage:
    """An index's page of one project; `url` is the address that answered, without credentials."""

    index: str
    project: str
    url: str
    files: tuple[IndexFile, ...]
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPin:
    """Packages (a glob on normalised names) that come from one index only, and why."""

    packages: str
    index: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexPins:
    """The pins of a cell, of which the first match applies, and their indexes."""

    pins: tuple[IndexPin, ...] = ()
    indexes: tuple[Index, ...] = ()

    def of(self, project: str) -> IndexPin | None:
        """Return the pin of a package, or None if it comes from uv's own indexes."""
        pin = next((pin for pin in self.pins if fnmatch.fnmatchcase(project, pin.packages)), None)
        return None if pin is None or pin.index == DEFAULT else pin

    def index(self, project: str) -> Index | None:
        """Return the index that a package is pinned to."""
        pin = self.of(project)
        return self.named(pin.index) if pin else None

    def named(self, name: str) -> Index:
        """Return an index by its name."""
        return next(index for index in self.indexes if index.name == name)

    def __bool__(self) -> bool:
        return any(pin.index != DEFAULT for pin in self.pins)

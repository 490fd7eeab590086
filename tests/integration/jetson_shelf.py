"""The files that the stand-in for the Jetson AI Lab index serves: what is on a page, and what was there once."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jetson_wheels import remake
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from pathlib import Path

MIRROR = "root/pypi"
"""devpi's own mirror: where there is a set of this name, the others have those of its projects that they lack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A file on a page; `yanked` is the reason why it was taken back."""

    path: Path
    stage: str
    sha256: str
    requires_python: str
    yanked: str | None = None

    @property
    def address(self) -> str:
        """Where devpi keeps it: below the beginning of its hash."""
        return f"{self.stage}/+f/{self.sha256[:3]}/{self.sha256[3:16]}/{self.path.name}"


@dataclass(kw_only=True)
class Shelf:
    """Wheels in `folder/<user>/<set>/**.whl`. They may be added, changed and removed at any time."""

    folder: Path
    yanked: dict[str, str] = field(default_factory=dict)
    _known: dict[tuple[Path, int, int], Link] = field(default_factory=dict)
    _ever: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Tell whether there is a set of this name, empty or not."""
        return (self.folder / name).is_dir()

    def names(self) -> list[str]:
        """Return the names of all sets."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob("*/*") if path.is_dir())

    def projects(self, name: str) -> list[str]:
        """Return the projects of a set by their normalised names."""
        return sorted({project_of(path) for path in self._wheels(name)})

    def links(self, name: str, project: str) -> list[Link]:
        """Return the files of a project; a set that has none of it looks into the mirror."""
        for stage in (name, MIRROR):
            found = [self._link(path, stage) for path in self._wheels(stage) if project_of(path) == project]
            if found:
                return found
        return []

    def file(self, address: str) -> Path | None:
        """Return the file at an address (`jp6/cu126/+f/…/<name>.whl`)."""
        stage, _, rest = address.partition("/+f/")
        paths = (path for path in self._wheels(stage) if path.name == rest.rpartition("/")[2])
        return next((path for path in paths if self._link(path, stage).address == address), None)

    def was_there(self, address: str) -> bool:
        """Tell whether a file was listed at an address once."""
        return address in self._ever

    def replace(self, name: str, filename: str) -> tuple[str, str]:
        """Upload other bytes under a file name; return the old and the new address. The old one is gone."""
        path = next(path for path in self._wheels(name) if path.name == filename)
        before = self._link(path, name).address
        return before, self._link(remake(path), name).address

    def lose(self, name: str, pattern: str) -> list[str]:
        """Remove the wheels of a set that match a glob pattern, and return their old addresses."""
        lost = [self._link(path, name) for path in sorted((self.folder / name).rglob(pattern))]
        for link in lost:
            link.path.unlink()
        return [link.address for link in lost]

    def _wheels(self, name: str) -> list[Path]:
        return sorted((self.folder / name).rglob("*.whl"))

    def _link(self, path: Path, stage: str) -> Link:
        """Return a wheel's link, from memory while its file is the same."""
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size)
        link = self._known.get(key)
        if not link:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            link = Link(path=path, stage=stage, sha256=digest, requires_python=_requires_python(path))
            self._known[key] = link
            self._ever.add(link.address)
        return replace(link, yanked=self.yanked.get(path.name))


def project_of(wheel: Path) -> str:
    """Return the normalised name of a wheel's project."""
    return canonicalize_name(wheel.name.split("-")[0])


def _requires_python(wheel: Path) -> str:
    """Return what an uploader would have told; nothing of a wheel that cannot be read."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            text = archive.read(name).decode()
    except (zipfile.BadZipFile, StopIteration):
        return ""
    found = re.search(r"^Requires-Python: (.*)$", text, re.MULTILINE)
    return found[1] if found else ""

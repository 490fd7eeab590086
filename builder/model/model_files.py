"""The records of a locked model."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from builder.model import patterns

_SHA256 = r"[0-9a-f]{64}"
_LONGEST_NAME = 255
Origin = Literal["hub", "folder", "registry"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """One file of a model: `path` is relative to the model's folder, with `/`; `size` is in bytes."""

    path: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        # Anybody may edit a lock: no path in it may lead out of the model's folder or the cache.
        flaw = path_flaw(self.path)
        if flaw:
            raise ValueError(f"{self.path!r} {flaw}")
        if not re.fullmatch(_SHA256, self.sha256) or self.size < 0:
            raise ValueError(f"{self.path!r} has no valid sha256 and size")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """A file of a hub: large ones have a sha256, small ones git's object id; `size` is in bytes."""

    path: str
    size: int
    sha256: str | None
    git_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubListing:
    """All files of a model at one commit."""

    commit: str
    licence: str | None
    files: tuple[HubFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedModel:
    """A model with all its files in the image.

    `source` is as in the recipe. `revision` is the hub's commit or the digest of a registry's manifest. `stand_in` is
    the reason why the files are not those of `source`, if they are not.
    """

    name: str
    source: str
    origin: Origin
    files: tuple[ModelFile, ...]
    revision: str | None = None
    licence: str | None = None
    stand_in: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(patterns.MODEL_NAME, self.name):
            raise ValueError(f"{self.name!r} is not a model's name")
        paths = [file.path for file in self.files]
        if paths != sorted(set(paths)):
            raise ValueError(f"the files of model {self.name} are not sorted, or not distinct")

    @property
    def size(self) -> int:
        """The sum of the files' sizes in bytes."""
        return sum(file.size for file in self.files)


def path_flaw(path: str) -> str | None:
    """Return why a path cannot be a model file's, or None if it is relative, plain and printable."""
    # Surrogates, which stand for bytes that are not UTF-8, are not printable.
    if not path.isprintable():
        return "has a name with control characters, or one that is not UTF-8"
    if "\\" in path:
        return "has a backslash in its name"
    names = path.split("/")
    if path.startswith("/") or any(name in ("", ".", "..") for name in names):
        return "is not a plain relative path"
    if any(len(name.encode()) > _LONGEST_NAME for name in names):
        return f"has a name of more than {_LONGEST_NAME} bytes"
    return None


def printable_path(path: str) -> str:
    """Return a path, escaped if it is not printable."""
    return path if path.isprintable() else ascii(path)[1:-1]


def suffix_of(path: str) -> str:
    """Return a file name's ending in lower case, without its dot."""
    return PurePosixPath(path).suffix.lower().removeprefix(".")


def kind_of(mode: int) -> str:
    """Return the kind of a path that is neither a file nor a folder."""
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}
    return kinds.get(stat.S_IFMT(mode), "not a regular file")

"""The records of packages that are built from source: what a lock states of a build, and the built wheel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from builder.model.recipes import Architecture, Pairs
from builder.model.wheels import LockedWheel

SourceKind = Literal["sdist", "git", "folder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSource:
    """The source of a build.

    `location` is the URL of the archive or repository, or the folder as the recipe names it. `sha256` is that of the
    archive, or of the content of the commit or folder.
    """

    kind: SourceKind
    location: str
    sha256: str
    commit: str | None = None
    size: int | None = None
    index: str | None = None

    @property
    def words(self) -> str:
        """The kind of the source, as messages name it."""
        if self.kind == "git":
            return f"{self.location} at {(self.commit or '')[:12]}"
        return f"the folder {self.location}" if self.kind == "folder" else "the source archive"


@dataclass(frozen=True, kw_only=True, slots=True)
class SolvedSource:
    """A package that a solution builds, its version and source, and the requirements of its wheel (PEP 508)."""

    name: str
    version: str
    source: BuildSource
    requires: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPatch:
    """A patch, relative to the recipe."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFile:
    """A file of a toolchain, and its role in it; `size` in bytes."""

    role: str
    url: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildTarget:
    """What a wheel is built for: `gpus` are compute capabilities, `glibc` is the oldest C library that it runs with.

    `torch` is the cell's own, whose ABI an extension depends on.
    """

    architecture: Architecture
    python: str
    glibc: str
    gpus: tuple[str, ...] = ()
    cuda: str | None = None
    torch: LockedWheel | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedBuild:
    """A package to build from source, with all inputs.

    `requirements` are the build requirements for the Python of the building machine, `toolchain` is a row of
    `toolchains.toml` and `tools` are its files.
    """

    name: str
    version: str
    source: BuildSource
    patches: tuple[BuildPatch, ...] = ()
    environment: Pairs = ()
    requirements: tuple[LockedWheel, ...] = ()
    toolchain: str = ""
    tools: tuple[ToolFile, ...] = ()
    target: BuildTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheel:
    """A wheel that was built: by this machine, or found in the cache or a registry by its `fingerprint`.

    `seconds`, `memory` (bytes, at its peak) and `units` (compiled files) are those of the build.
    """

    fingerprint: str
    wheel: LockedWheel
    origin: str
    seconds: float = 0.0
    memory: int = field(default=0)
    units: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheels:
    """The wheels that a cell has built, sorted by name."""

    wheels: tuple[BuiltWheel, ...]

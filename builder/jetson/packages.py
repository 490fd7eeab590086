"""Packages: indexes for Jetsons, versions that their authors never released, and the Pythons of vLLM's releases."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from builder.host.index_rows import read_rows
from builder.host.toml import documents
from builder.host.toml.declarations import Source, declaration_of, string, strings, tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.index_rows import IndexRow

_INDEXES = Path(__file__).with_name("indexes.toml")
_RELEASES = Path(__file__).with_name("releases.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class NeverReleased:
    """Versions of a package that its authors never released, and where builds of that number exist."""

    package: Annotated[str, string()]
    versions: Annotated[tuple[str, ...], strings()]
    origin: Annotated[str, string(".+")]
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonRange:
    """The Pythons (a specifier) that releases of a package (a specifier) run on."""

    package: Annotated[str, string()]
    versions: Annotated[str, string(r"[0-9<>=!.,]+", "a version range such as >=0.9,<0.10")]
    python: Annotated[str, string(r"[0-9<>=!.,]+", "a version range such as >=3.9,<3.13")]
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseTable:
    """All rows of `releases.toml`."""

    never_released: Annotated[
        tuple[NeverReleased, ...], tables(declaration_of(NeverReleased, keys={"origin": "where"}))
    ]
    pythons: Annotated[tuple[PythonRange, ...], tables(declaration_of(PythonRange))]


@cache
def releases() -> ReleaseTable:
    """Return the rows of `releases.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_RELEASES, "the releases have mistakes", declaration_of(ReleaseTable).read)


def never_released(package: str, version: str) -> str | None:
    """Return a message if a version was never released by its authors, with where it exists; else None."""
    for row in releases().never_released:
        if row.package == package and version.partition("+")[0] in row.versions:
            return f"{package} {version} was never released by its authors: {row.origin} ({row.source})"
    return None


@cache
def python_problem(package: str, version: str, python: str) -> str | None:
    """Return why a release of a package does not run on a Python (`3.10`); None if it does, or without a row."""
    rows = [row for row in releases().pythons if row.package == package]
    if not rows:
        return None
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415  # slow to import; lists without vLLM do without
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    try:
        release = Version(version)
    except InvalidVersion:
        return None
    for row in rows:
        is_covered = SpecifierSet(row.versions).contains(release, prereleases=True)
        if is_covered and not SpecifierSet(row.python).contains(f"{python}.99"):
            return f"{package} {version} runs on Python {row.python} only, not on {python}"
    return None


@cache
def indexes() -> tuple[IndexRow, ...]:
    """Return the rows of `indexes.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_INDEXES, "the indexes have mistakes", lambda root: read_rows(root, {}))


def families() -> dict[str, tuple[str, ...]]:
    """Return the package globs by family of indexes; a user's indexes may belong to one."""
    return {row.family: row.packages for row in indexes() if row.family}


def with_own(user_rows: Iterable[IndexRow]) -> tuple[IndexRow, ...]:
    """Return all rows, the user's first; a user's row replaces one of the same name."""
    rows: dict[str, IndexRow] = {}
    for row in (*user_rows, *indexes()):
        rows.setdefault(row.name, row)
    return tuple(rows.values())

"""What is known about releases: versions that never came from their authors, and the Pythons that vLLM runs on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

_DATA = Path(__file__).with_name("releases.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class NeverReleased:
    """Versions of a package that its authors never released, and where something of that number exists."""

    package: str
    versions: tuple[str, ...]
    where: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonRange:
    """The Pythons (a specifier) that releases of a package (a specifier) run on."""

    package: str
    versions: str
    python: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseTable:
    """All rows of `releases.toml`."""

    never: tuple[NeverReleased, ...]
    pythons: tuple[PythonRange, ...]


@cache
def releases() -> ReleaseTable:
    """Return the rows of `releases.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_DATA, "the releases have mistakes", _parse)


def never_released(package: str, version: str) -> str | None:
    """Return that a version never came from its authors, and where it exists; None if nothing is known against it."""
    for row in releases().never:
        if row.package == package and version.partition("+")[0] in row.versions:
            return f"{package} {version} was never released by its authors: {row.where} ({row.source})"
    return None


@cache
def python_problem(package: str, version: str, python: str) -> str | None:
    """Return why a release of a package does not run on a Python (`3.10`), or None if it does or nothing is known."""
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


def _parse(root: Table) -> ReleaseTable:
    never = tuple(_never(table) for table in root.tables("never-released"))
    return ReleaseTable(never=never, pythons=tuple(_pythons(table) for table in root.tables("pythons")))


def _never(table: Table) -> NeverReleased:
    row = NeverReleased(
        package=table.string("package"),
        versions=table.strings("versions"),
        where=table.string("where", pattern=".+"),
        source=table.string("source", pattern=".+", noun="a source"),
    )
    table.done()
    return row


def _pythons(table: Table) -> PythonRange:
    row = PythonRange(
        package=table.string("package"),
        versions=table.string("versions", pattern=r"[0-9<>=!.,]+", noun="a version range such as >=0.9,<0.10"),
        python=table.string("python", pattern=r"[0-9<>=!.,]+", noun="a version range such as >=3.9,<3.13"),
        source=table.string("source", pattern=".+", noun="a source"),
    )
    table.done()
    return row

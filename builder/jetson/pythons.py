"""The interpreters of python-build-standalone that jbuild knows, from `pythons.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.model.recipes import Architecture

_RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download"
_MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class StandalonePython:
    """One release of an interpreter: `version` is CPython's (`3.12.16`), `build` the day of its build (`20261110`)."""

    python: str
    version: str
    build: str
    sha256: tuple[tuple[str, str], ...]
    source: str

    @property
    def release(self) -> str:
        """Version and build, as the archives' names have them."""
        return f"{self.version}+{self.build}"

    def url(self, architecture: Architecture) -> str:
        """Return where its authors publish the archive for an architecture."""
        build = f"{_MACHINES[architecture]}-unknown-linux-gnu-install_only_stripped"
        return f"{_RELEASES}/{self.build}/cpython-{self.version}%2B{self.build}-{build}.tar.gz"


@cache
def pythons() -> tuple[StandalonePython, ...]:
    """Return the rows of `pythons.toml`, in the order of the file."""
    return read_pythons(Path(__file__).with_name("pythons.toml"))


def standalone(python: str) -> StandalonePython:
    """Return the row of a minor version (`3.12`).

    Raises:
        KeyError: there is none; the reader of distributions.toml has seen to that.
    """
    return {row.python: row for row in pythons()}[python]


def read_pythons(path: Path) -> tuple[StandalonePython, ...]:
    """Read a file of interpreters.

    Raises:
        DocumentError: a row is not well-formed or a version is there twice.
    """
    return documents.load(path, "the interpreters have mistakes", _parse)


def _parse(root: Table) -> tuple[StandalonePython, ...]:
    rows: list[StandalonePython] = []
    for table in root.tables("pythons"):
        row = _row(table)
        if row.python in (earlier.python for earlier in rows):
            table.problem("python", f"`{row.python}` is there twice")
        rows.append(row)
    return tuple(rows)


def _row(table: Table) -> StandalonePython:
    row = StandalonePython(
        python=table.string("python", pattern=r"3\.[0-9]+", noun="a version such as 3.12"),
        version=table.string("version", pattern=r"3\.[0-9]+\.[0-9]+", noun="a version such as 3.12.16"),
        build=table.string("build", pattern=r"[0-9]{8}", noun="a day such as 20261110"),
        sha256=table.string_map(
            "sha256",
            key_pattern="arm64|amd64",
            value_pattern="[0-9a-f]{64}",
            noun="a sha256 by architecture",
            key_noun="arm64 or amd64",
        ),
        source=table.string("source", pattern=".+", noun="a source"),
    )
    if not row.version.startswith(f"{row.python}."):
        table.problem("version", f"{row.version} is not a release of Python {row.python}")
    if {name for name, _ in row.sha256} != set(_MACHINES):
        table.problem("sha256", "must name the archives of arm64 and amd64")
    table.done()
    return row

"""The interpreters of python-build-standalone in `pythons.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from builder.host.toml.declarations import Source, declaration_of, load_rows, string, string_map
from builder.model.recipes import Pairs

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.model.recipes import Architecture

_DATA = Path(__file__).with_name("pythons.toml")
_RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download"
_MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}


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
        return f"{_RELEASES}/{self.build}/cpython-{self.version}%2B{self.build}-{build}.tar.gz"


def _check_row(table: Table, row: StandalonePython, _: None) -> None:
    if not row.version.startswith(f"{row.python}."):
        table.problem("version", f"{row.version} is not a release of Python {row.python}")
    if {name for name, _ in row.sha256} != set(_MACHINES):
        table.problem("sha256", "must name the archives of arm64 and amd64")


_PYTHON = declaration_of(StandalonePython, check=_check_row)


@cache
def pythons(path: Path = _DATA) -> tuple[StandalonePython, ...]:
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

"""The rows of `slim.toml`: packages that stay unchanged, sections with GPU code, and the known GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from builder.host.toml import documents
from builder.jetson.boards import sm_number

if TYPE_CHECKING:
    from builder.host.toml.tables import Table

_CAPABILITY, _NOUN = r"[0-9]{1,2}\.[0-9]", "a compute capability such as 8.7"
# What is taken out at once.
SlimUnit = Literal["entry", "container"]
_TABLE = Path(__file__).with_name("slim.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnchangedPackages:
    """Globs on packages that are not changed unless a recipe names them."""

    packages: tuple[str, ...]
    why: str
    source: str

    def has(self, package: str) -> bool:
        """Return whether the row names a package."""
        return any(fnmatchcase(package, pattern) for pattern in self.packages)


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionRow:
    """A further section with GPU code, in files of a package (globs)."""

    package: str
    file: str
    name: str
    unit: SlimUnit


@dataclass(frozen=True, kw_only=True, slots=True)
class CubinRow:
    """Cubins that are files of their own in a package (globs), and that go as a whole."""

    package: str
    file: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimTables:
    """All rows; `gpus` are the known compute capabilities.

    `compilers` are the first CUDA release that compiles for a GPU, by its SM, where that is not an old one. Releases
    that are `driver_only` have no compiler.
    """

    unchanged: tuple[UnchangedPackages, ...]
    sections: tuple[SectionRow, ...]
    cubins: tuple[CubinRow, ...]
    gpus: tuple[int, ...]
    compilers: tuple[tuple[int, tuple[int, int]], ...]
    driver_only: tuple[tuple[int, int], ...]


@cache
def slim_tables() -> SlimTables:
    """Return the rows of `slim.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_TABLE, "the rules of slimming have mistakes", _tables)


def unchanged_row(package: str) -> UnchangedPackages | None:
    """Return the row of a package that is not changed unless a recipe or an option names it."""
    return next((row for row in slim_tables().unchanged if row.has(package)), None)


def code_sections(package: str, file: str) -> dict[str, SlimUnit]:
    """Return the further sections with GPU code of a file, and what is taken out of them at once."""
    rows = (row for row in slim_tables().sections if fnmatchcase(package, row.package) and fnmatchcase(file, row.file))
    return {row.name: row.unit for row in rows}


def cubin_glob(package: str, file: str) -> str | None:
    """Return the glob of files that matches a cubin which may go, None for other files."""
    rows = slim_tables().cubins
    return next((r.file for r in rows if fnmatchcase(package, r.package) and fnmatchcase(file, r.file)), None)


def _tables(root: Table) -> SlimTables:
    gpus: list[int] = []
    for table in root.rows("gpus"):
        table.string("source", pattern=".+", noun="a source")
        gpus += map(sm_number, table.strings("capabilities", pattern=_CAPABILITY, noun=_NOUN))
    return SlimTables(
        unchanged=_unchanged(root),
        sections=_sections(root),
        cubins=_cubins(root),
        gpus=tuple(gpus),
        compilers=_compilers(root),
        driver_only=tuple(map(_release, root.rows("driver-releases"))),
    )


def _compilers(root: Table) -> tuple[tuple[int, tuple[int, int]], ...]:
    rows = []
    for table in root.rows("compilers"):
        release = _release(table)
        capabilities = table.strings("capabilities", pattern=_CAPABILITY, noun=_NOUN)
        rows += [(sm_number(capability), release) for capability in capabilities]
    return tuple(rows)


def _release(table: Table) -> tuple[int, int]:
    table.string("source", pattern=".+", noun="a source")
    major, _, minor = table.string("cuda", pattern=r"[0-9]+\.[0-9]+", noun="a CUDA release").partition(".")
    return int(major or 0), int(minor or 0)


def _unchanged(root: Table) -> tuple[UnchangedPackages, ...]:
    rows = []
    for table in root.rows("unchanged"):
        packages = table.strings("packages")
        rows.append(UnchangedPackages(packages=packages, why=table.string("why"), source=table.string("source")))
    return tuple(rows)


def _sections(root: Table) -> tuple[SectionRow, ...]:
    rows = []
    for table in root.rows("sections"):
        table.string("source", pattern=".+", noun="a source")
        unit = table.string("unit")
        if unit not in get_args(SlimUnit):
            table.problem("unit", "must be `entry` or `container`")
        package, file, name = (table.string(key) for key in ("package", "file", "name"))
        rows.append(SectionRow(package=package, file=file, name=name, unit=unit))  # type: ignore[arg-type]
    return tuple(rows)


def _cubins(root: Table) -> tuple[CubinRow, ...]:
    rows = []
    for table in root.rows("cubins"):
        table.string("source", pattern=".+", noun="a source")
        rows.append(CubinRow(package=table.string("package"), file=table.string("file")))
    return tuple(rows)

"""Which packages are slimmed, and where their code is besides the usual section."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from builder.audit.slim_choice import unchanged_row
from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.model.slimming import SlimRules

CAPABILITY = r"[0-9]{1,2}\.[0-9]"
# What is taken out at once.
SlimUnit = Literal["entry", "container"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionRow:
    """A further section with GPU code, in files of a package (globs)."""

    package: str
    file: str
    name: str
    unit: SlimUnit


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimTables:
    """All rows; `gpus` are the known compute capabilities."""

    sections: tuple[SectionRow, ...]
    gpus: tuple[int, ...]


@cache
def slim_tables() -> SlimTables:
    """Return the rows of `slim.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(Path(__file__).with_name("slim.toml"), "the rules of slimming have mistakes", _tables)


def refusal(package: str, rules: SlimRules) -> str | None:
    """Return the reason why a package stays as it is; None if it is slimmed."""
    if _matches(package, rules.exclude):
        return "the rules exclude it"
    if _matches(package, rules.include):
        return None
    row = unchanged_row(package)
    return row.why if row else None


def code_sections(package: str, file: str) -> dict[str, SlimUnit]:
    """Return the further sections with GPU code of a file, and what is taken out of them at once."""
    rows = (row for row in slim_tables().sections if fnmatchcase(package, row.package) and fnmatchcase(file, row.file))
    return {row.name: row.unit for row in rows}


def _matches(package: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(package, pattern) for pattern in globs)


def _tables(root: Table) -> SlimTables:
    gpus: list[int] = []
    for table in root.rows("gpus"):
        table.string("source", pattern=".+", noun="a source")
        gpus += map(sm_of, table.strings("capabilities", pattern=CAPABILITY, noun="a compute capability such as 8.7"))
    return SlimTables(sections=_sections(root), gpus=tuple(gpus))


def sm_of(capability: str) -> int:
    """Return the number of a compute capability: 87 for 8.7."""
    major, _, minor = capability.partition(".")
    return int(major) * 10 + int(minor)


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

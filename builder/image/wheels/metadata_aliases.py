"""Metadata that some distributions write on their first import; see `aliases.toml`."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table

_SUMMARY = "metadata that {distribution} would write when first imported"


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """A row of `aliases.toml`: the distributions (a glob), and the name, version and folder of their extra metadata."""

    wheels: str
    name: str
    version: str
    folder: str
    source: str


@cache
def aliases() -> tuple[Alias, ...]:
    """Return the rows of `aliases.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(Path(__file__).with_name("aliases.toml"), "the aliases have mistakes", _parse)


def write_aliases(distribution: str, version: str, packages: Path) -> None:
    """Write the extra metadata of a distribution into a site-packages folder."""
    for alias in aliases():
        if not fnmatch.fnmatchcase(distribution, alias.wheels):
            continue
        folder = packages / alias.folder
        folder.mkdir(exist_ok=True)
        lines = (
            "Metadata-Version: 2.1",
            f"Name: {alias.name}",
            f"Version: {alias.version.format(version=version)}",
            f"Summary: {_SUMMARY.format(distribution=distribution)}",
        )
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "RECORD").write_text(f"{alias.folder}/METADATA,,\n{alias.folder}/RECORD,,\n", encoding="utf-8")


def _parse(root: Table) -> tuple[Alias, ...]:
    rows = []
    for table in root.tables("aliases"):
        keys = ("wheels", "name", "version", "folder", "source")
        rows.append(Alias(**{key: table.string(key) for key in keys}))
        table.done()
    return tuple(rows)

"""Metadata of distributions under other names, as some wheels write when first imported."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.toml.tables import Table


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


def alias_files(distribution: str, version: str) -> Iterator[tuple[str, bytes]]:
    """Yield the extra metadata of a distribution: paths in site-packages, and contents."""
    for name, alias_version, folder in alias_versions(distribution, version):
        lines = (
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {alias_version}",
            f"Summary: metadata that {distribution} would write when first imported",
        )
        yield f"{folder}/METADATA", ("\n".join(lines) + "\n").encode()
        yield f"{folder}/RECORD", f"{folder}/METADATA,,\n{folder}/RECORD,,\n".encode()


def alias_versions(distribution: str, version: str) -> list[tuple[str, str, str]]:
    """Return name, version and folder of each extra metadata of a distribution."""
    return [
        (alias.name, alias.version.format(version=version), alias.folder)
        for alias in aliases()
        if fnmatch.fnmatchcase(distribution, alias.wheels)
    ]


def _parse(root: Table) -> tuple[Alias, ...]:
    rows = []
    for table in root.tables("aliases"):
        rows.append(Alias(**{field.name: table.string(field.name) for field in fields(Alias)}))
        table.done()
    return tuple(rows)

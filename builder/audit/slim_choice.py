"""Decides which packages of a cell lose their GPU code for other GPUs: a function of recipe, cell and table."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.model.locks import Job

_TABLE = Path(__file__).with_name("slim.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnchangedPackages:
    """A row of `slim.toml`: globs on packages that are not changed unless a recipe names them."""

    packages: tuple[str, ...]
    why: str
    source: str

    def has(self, package: str) -> bool:
        """Return whether the row names a package."""
        return any(fnmatchcase(package, pattern) for pattern in self.packages)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimChoice:
    """Whether a package loses its GPU code for other GPUs, and why."""

    slim: bool
    why: str


@cache
def unchanged_packages() -> tuple[UnchangedPackages, ...]:
    """Return the rows of `slim.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_TABLE, "the table of unchanged packages has mistakes", _parse)


def choose(job: Job, package: str) -> SlimChoice:
    """Return the choice for a package of a cell: the recipe's own rule, the table's, then the cell's."""
    image = job.spec.image
    if not job.platform.sms:
        return SlimChoice(slim=False, why="the platform has no GPU")
    for pattern, slim in image.slim_packages:
        if fnmatchcase(package, pattern):
            return SlimChoice(slim=slim, why=f"the recipe says so of {pattern}")
    cell = _of_cell(job)
    row = next((row for row in unchanged_packages() if row.has(package)), None)
    return SlimChoice(slim=False, why=row.why) if cell.slim and row else cell


def _of_cell(job: Job) -> SlimChoice:
    if job.spec.image.slim is not None:
        return SlimChoice(slim=job.spec.image.slim, why="the recipe says so")
    if job.cell.names_sms:
        return SlimChoice(slim=True, why="the cell names its GPUs")
    return SlimChoice(slim=False, why="the cell does not name its GPUs")


def _parse(root: Table) -> tuple[UnchangedPackages, ...]:
    rows = []
    for table in root.rows("unchanged"):
        packages = table.strings("packages")
        rows.append(UnchangedPackages(packages=packages, why=table.string("why"), source=table.string("source")))
    return tuple(rows)

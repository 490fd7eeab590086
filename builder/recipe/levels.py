"""The levels of a verdict in their order, which is data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder import tomldoc

if TYPE_CHECKING:
    from builder.tomldoc import Table

DATA = Path(__file__).with_name("levels.toml")


@cache
def levels(path: Path = DATA) -> tuple[str, ...]:
    """Return the names of all levels, the least first.

    Raises:
        DocumentError: the table has mistakes.
    """
    return tomldoc.load(path, "the table of levels has mistakes", _parse)


def reaches(level: str, wanted: str | None) -> bool:
    """Return whether a verdict's level is at least the one wanted; any is, if none is."""
    order = levels()
    return wanted is None or (level in order and order.index(level) >= order.index(wanted))


def _parse(root: Table) -> tuple[str, ...]:
    names = []
    for table in root.tables("levels"):
        names.append(table.string("name", pattern=r"[a-z]+(-[a-z]+)*", noun="a level's name"))
        table.string("proves")
        table.string("source")
        table.done()
    return tuple(names)

"""The levels of a verdict, in the order of their table."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents

if TYPE_CHECKING:
    from builder.host.toml.tables import Table

DATA = Path(__file__).with_name("levels.toml")


@cache
def _table(path: Path) -> dict[str, int]:
    return documents.load(path, "the table of levels has mistakes", _parse)


def levels(path: Path = DATA) -> tuple[str, ...]:
    """Return the names of all levels, the least first.

    Raises:
        DocumentError: the table has mistakes.
    """
    return tuple(_table(path))


def usual_start_s(level: str) -> int:
    """Return how long a start usually takes at a level, in seconds; 0 if it is short."""
    return _table(DATA).get(level, 0)


def reaches(level: str, minimum: str | None) -> bool:
    """Return whether a level is at least the minimum; without a minimum, every level is."""
    order = levels()
    return minimum is None or (level in order and order.index(level) >= order.index(minimum))


def _parse(root: Table) -> dict[str, int]:
    starts = {}
    for table in root.tables("levels"):
        name = table.string("name", pattern=r"[a-z]+(-[a-z]+)*", noun="a level's name")
        starts[name] = table.integer("usual-start-s", 0)
        table.string("proves")
        table.string("source")
        table.done()
    return starts

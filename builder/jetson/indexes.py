"""Package indexes made for Jetsons: the rows of `indexes.toml`, and which of them a platform takes packages from."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.index_rows import read_rows
from builder.host.toml import documents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.index_rows import IndexRow

_DATA = Path(__file__).with_name("indexes.toml")


@cache
def indexes() -> tuple[IndexRow, ...]:
    """Return the rows of `indexes.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_DATA, "the indexes have mistakes", lambda root: read_rows(root, {}))


def families() -> dict[str, tuple[str, ...]]:
    """Return the package globs of the families of indexes, which a user's own indexes may be of."""
    return {row.family: row.packages for row in indexes() if row.family}


def with_own(user_rows: Iterable[IndexRow]) -> tuple[IndexRow, ...]:
    """Return all rows, the user's first; of those with one name the first counts."""
    rows: dict[str, IndexRow] = {}
    for row in (*user_rows, *indexes()):
        rows.setdefault(row.name, row)
    return tuple(rows.values())

"""Package indexes for Jetsons: the rows of `indexes.toml`, and the user's."""

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
    """Return the package globs by family of indexes; a user's indexes may belong to one."""
    return {row.family: row.packages for row in indexes() if row.family}


def with_own(user_rows: Iterable[IndexRow]) -> tuple[IndexRow, ...]:
    """Return all rows, the user's first; a user's row replaces one of the same name."""
    rows: dict[str, IndexRow] = {}
    for row in (*user_rows, *indexes()):
        rows.setdefault(row.name, row)
    return tuple(rows.values())

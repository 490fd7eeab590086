"""Failures of several cells: what has one cause is told once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.console import Console
    from builder.errors import JbuildError


def show_failures(failures: Sequence[tuple[str, JbuildError]], console: Console) -> None:
    """Print the errors of cells (by id), those that differ in nothing but the cell's name once for all of them."""
    for cells, error in alike(failures):
        console.note(f"{', '.join(cells)} failed:")
        console.failure(error, as_result=False)


def alike(failures: Sequence[tuple[str, JbuildError]]) -> list[tuple[list[str], JbuildError]]:
    """Return each error with the cells that failed of it; its texts are those of the first."""
    found: dict[tuple[object, ...], tuple[list[str], JbuildError]] = {}
    for cell, error in failures:
        own = re.compile(rf"(?<!\w){re.escape(cell)}(?!\w)")
        texts = (error.message, error.where, error.hint, error.log)
        key = (type(error), *(own.sub("{cell}", text or "") for text in texts))
        found.setdefault(key, ([], error))[0].append(cell)
    return list(found.values())

"""Selection of cells: globs on axis values and ids."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host.wording import printable, suggest
from builder.jetson.platform import release_mistake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.model.recipes import Cell, Pairs

_LISTED_IDS = 8


@lru_cache(maxsize=1024)
def glob(pattern: str) -> re.Pattern[str]:
    """Return a glob (`*`, `?`, `[…]`) as a pattern that matches a whole string, case-sensitive."""
    return re.compile(translate(pattern))


def matches(when: Pairs, values: Pairs) -> bool:
    """Return whether all axis globs of `when` match the axis values."""
    axes = dict(values)
    return all(axis in axes and glob(pattern).match(axes[axis]) for axis, pattern in when)


def select(cells: Sequence[Cell], selectors: Sequence[str]) -> tuple[Cell, ...]:
    """Return the selected cells in the order of the matrix; all cells without a selector.

    A selector is a glob on ids (`v0_15_1-*`) or `axis=glob` (`python=3.1?`). A cell must match one of the selectors on
    ids and, for each axis, one of the selectors on it: `--cell vllm=0.9.3 --cell vllm=0.10.2 --cell python=3.10`
    selects either vLLM with Python 3.10.

    Raises:
        UsageError: a selector matches no cell, or no cell matches all of them.
    """
    groups: dict[str, list[str]] = {}
    for selector in selectors:
        axis, _, pattern = selector.rpartition("=")
        groups.setdefault(axis, []).append(pattern)
        _check(cells, axis, pattern)
    selected = tuple(
        cell
        for cell in cells
        if all(any(_matches(cell, axis, one) for one in patterns) for axis, patterns in groups.items())
    )
    if selectors and not selected:
        raise UsageError(
            f"no cell matches all of: {', '.join(map(printable, selectors))}",
            hint="a cell must match the selectors of every axis: remove one",
        )
    return selected


def _matches(cell: Cell, axis: str, pattern: str) -> bool:
    value = cell.value(axis) if axis else cell.id
    return value is not None and glob(pattern).match(value) is not None


def _check(cells: Sequence[Cell], axis: str, pattern: str) -> None:
    if any(_matches(cell, axis, pattern) for cell in cells):
        return
    axes = list(dict.fromkeys(name for cell in cells for name, _ in cell.values))
    if not axis:
        ids = [cell.id for cell in cells]
        hint = suggest(pattern, ids, noun="cells")
        if len(ids) > _LISTED_IDS and not hint.startswith("did you mean"):
            hint = f"there are {len(ids)} cells, such as {', '.join(ids[:_LISTED_IDS])}"
        raise UsageError(f"no cell is called `{printable(pattern)}`", hint=hint)
    if axis not in axes:
        raise UsageError(f"`{printable(axis)}` is not an axis of this recipe", hint=suggest(axis, axes, noun="axes"))
    if axis == "l4t" and (mistake := release_mistake(pattern)):
        raise UsageError(f"no cell has l4t={printable(pattern)}: {mistake[0]}", hint=mistake[1])
    values = list(dict.fromkeys(value for cell in cells if (value := cell.value(axis)) is not None))
    raise UsageError(
        f"no cell has {axis}={printable(pattern)}", hint=suggest(pattern, values, noun=f"values of {axis}")
    )

"""Choosing cells on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.host.toml.documents import printable, suggest
from builder.recipe.globs import glob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.model.recipes import Cell

_LISTED_IDS = 8


def select(cells: Sequence[Cell], selectors: Sequence[str]) -> tuple[Cell, ...]:
    """Return the cells that selectors choose, in the order of the matrix; all of them if there is no selector.

    A selector is a glob on ids (`v0_15_1-*`) or `axis=glob` (`python=3.1?`). Selectors of one kind, on ids or on the
    same axis, widen each other; those of different kinds narrow each other:
    `--cell vllm=0.9.3 --cell vllm=0.10.2 --cell python=3.10` means either vLLM, and Python 3.10 with both.

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
            hint="selectors on different axes narrow each other: leave one out",
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
        hint = suggest(pattern, ids, noun="cells") if len(ids) <= _LISTED_IDS else _nearest_ids(pattern, ids)
        raise UsageError(f"no cell is called `{printable(pattern)}`", hint=hint)
    if axis not in axes:
        raise UsageError(f"`{printable(axis)}` is not an axis of this recipe", hint=suggest(axis, axes, noun="axes"))
    values = list(dict.fromkeys(value for cell in cells if (value := cell.value(axis)) is not None))
    raise UsageError(
        f"no cell has {axis}={printable(pattern)}", hint=suggest(pattern, values, noun=f"values of {axis}")
    )


def _nearest_ids(pattern: str, ids: list[str]) -> str:
    hint = suggest(pattern, ids, noun="cells")
    return (
        hint
        if hint.startswith("did you mean")
        else f"there are {len(ids)} cells, such as {', '.join(ids[:_LISTED_IDS])}"
    )

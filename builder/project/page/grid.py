"""A matrix of any number of axes in two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.project.page.page_model import Grid, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.project.page.page_model import CellView

# More columns do not fit a screen: a longer axis becomes rows if there is a shorter one.
_MOST_COLUMNS = 8


def grid_of(axes: Sequence[str], cells: Sequence[CellView]) -> Grid:
    """Return the map of cells: one axis as columns, the others with several values as rows, in the matrix's order.

    The columns are the longest axis that fits a screen.
    """
    values = {axis: list(dict.fromkeys(_value(cell, axis) for cell in cells)) for axis in axes}
    varying = [axis for axis in axes if len(values[axis]) > 1]
    fitting = [axis for axis in varying if len(values[axis]) <= _MOST_COLUMNS] or varying or list(axes[:1])
    across = max(fitting, key=lambda axis: len(values[axis]))
    down = tuple(axis for axis in varying if axis != across)
    columns = tuple(values[across])
    rows: dict[tuple[str, ...], dict[str, CellView]] = {}
    for cell in cells:
        head = tuple(_value(cell, axis) for axis in down)
        rows.setdefault(head, {})[_value(cell, across)] = cell
    return Grid(
        column_axis=across,
        columns=columns,
        row_axes=down,
        rows=tuple(
            Row(head=head, cells=tuple(by_column.get(column) for column in columns)) for head, by_column in rows.items()
        ),
        fixed=tuple((axis, values[axis][0]) for axis in axes if axis not in varying and axis != across),
    )


def _value(cell: CellView, axis: str) -> str:
    return dict(cell.values).get(axis, "-")

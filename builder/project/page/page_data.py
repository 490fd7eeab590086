"""The data of the page, from recipes: cells laid out by their axes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from builder import __version__
from builder.errors import DocumentError
from builder.lock.unresolved import reasons
from builder.project.page.cell_view import cell_view
from builder.recipe.load import load
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.recipes import Pairs
    from builder.project.page.cell_view import CellView


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the map: its values on the row axes, and a cell or None for each column."""

    head: tuple[str, ...]
    cells: tuple[CellView | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A matrix in two dimensions; `fixed` are axes with one value."""

    column_axis: str
    columns: tuple[str, ...]
    row_axes: tuple[str, ...]
    rows: tuple[Row, ...]
    fixed: Pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeView:
    """One recipe; one with `mistakes` has no cells."""

    name: str
    description: str = ""
    architecture: str = ""
    grid: Grid | None = None
    cells: tuple[CellView, ...] = ()
    mistakes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPage:
    """The whole page: the project's name, when it was made (UTC, ISO 8601), and how many cells are in each state."""

    project: str
    made: str
    version: str
    recipes: tuple[RecipeView, ...]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def troubled(self) -> tuple[CellView, ...]:
        """The cells that need attention first."""
        cells = (cell for recipe in self.recipes for cell in recipe.cells)
        return tuple(cell for cell in cells if cell.state in {"failed", "no wheels"})


def gather(paths: Sequence[Path], session: Session) -> ReportPage:
    """Return the page of these recipes, from files alone: it works offline."""
    views = []
    with session.console.task("reading", len(paths), unit="recipes") as task:
        for path in paths:
            views.append(_recipe(path, session))
            task.advance(1)
    recipes = tuple(sorted(views, key=_is_untouched))
    return ReportPage(
        project=session.workspace.project.name,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        recipes=recipes,
        counts=dict(Counter(cell.state for recipe in recipes for cell in recipe.cells)),
    )


def _is_untouched(recipe: RecipeView) -> bool:
    """Return whether a recipe has no records; these come last, and most of jbuild's own recipes are among them."""
    return not recipe.mistakes and all(cell.state in {"not begun", "impossible"} for cell in recipe.cells)


def _recipe(path: Path, session: Session) -> RecipeView:
    """Return the view of a recipe; a file with mistakes does not hide the others."""
    try:
        recipe = load(path)
        cells = expand(recipe)
    except DocumentError as error:
        problems = tuple(f"{p.path.name}:{p.line or '?'}: {p.key}: {p.message}" for p in error.problems)
        return RecipeView(name=path.stem, mistakes=problems)
    without = reasons(recipe, cells, session.workspace, lambda: session.config)
    views = tuple(cell_view(cell, session, without.get(cell.id)) for cell in cells)
    axes = [axis.name for axis in recipe.matrix.axes]
    return RecipeView(
        name=recipe.name,
        description=recipe.description,
        architecture=recipe.architecture,
        grid=grid_of(axes, views) if views else None,
        cells=views,
    )


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

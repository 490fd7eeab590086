"""The data of the page, from recipes."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from builder import __version__
from builder.errors import DocumentError
from builder.lock.unresolved import reasons
from builder.project.page.cell_view import cell_view
from builder.project.page.grid import grid_of
from builder.project.page.page_model import RecipeView, ReportPage
from builder.recipe.load import load
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session


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

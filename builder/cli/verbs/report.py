"""`jbuild report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from builder.cli.cell_selection import session_verb
from builder.cli.results import show
from builder.cli.verb_options import complete_recipes, output_option
from builder.host.files import write_text
from builder.host.session import Session
from builder.host.units import size_of
from builder.pipeline.failure import Failure
from builder.project.page.cell_view import CellView
from builder.project.page.page_data import gather
from builder.project.page.page_html import render
from builder.recipe.find import find, recipe_paths


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedCell:
    """The progress of a cell, and its failed stages, the latest last."""

    cell: str
    state: str
    detail: str
    reason: str | None
    failures: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedRecipe:
    """A recipe of the page."""

    recipe: str
    mistakes: tuple[str, ...]
    cells: tuple[ReportedCell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportResult:
    """A page that was written: its path, its bytes, and the number of cells in each state."""

    path: str
    size: int
    counts: dict[str, int]
    recipes: tuple[ReportedRecipe, ...]


@session_verb(
    "report",
    click.argument("recipes", nargs=-1, metavar="[RECIPE]...", shell_complete=complete_recipes),
    output_option("File to write. Default: build/report.html."),
)
def command(session: Session, recipes: tuple[str, ...], output: Path | None) -> None:
    """Write an HTML page about RECIPEs, or all recipes: progress, contents and failures of each cell.

    The page is one file and needs no network. It shows the runs of this project on this machine.
    """
    folders = session.workspace.recipe_folders
    paths = [find(name, folders) for name in recipes] or list(recipe_paths(folders).values())
    page = gather(paths, session)
    html = render(page)
    target = output or session.workspace.report
    write_text(target, html)
    reported = tuple(
        ReportedRecipe(recipe=recipe.name, mistakes=tuple(recipe.mistakes), cells=tuple(map(_cell, recipe.cells)))
        for recipe in page.recipes
    )
    result = ReportResult(path=str(target), size=len(html.encode()), counts=page.counts, recipes=reported)
    counts = ", ".join(f"{count} {state}" for state, count in page.counts.items()) or "no cells"
    show(result, f"{target}: {size_of(result.size)}, {counts}", session.console)


def _cell(cell: CellView) -> ReportedCell:
    return ReportedCell(cell=cell.id, state=cell.state, detail=cell.detail, reason=cell.reason, failures=cell.failures)

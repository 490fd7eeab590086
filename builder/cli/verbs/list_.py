"""`jbuild list`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import click

from builder.cli.results import show
from builder.cli.verb_options import json_option
from builder.errors import DocumentError
from builder.host import config, records
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.jetson.packages import families
from builder.lock.unresolved import reasons
from builder.recipe.find import recipe_paths
from builder.recipe.load import load
from builder.recipe.matrix import expand


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedRecipe:
    """One recipe: how many cells it has, or, in `error`, its mistakes."""

    name: str
    path: str
    description: str
    error: str | None = field(default=None, metadata=records.OPTIONAL)
    cells: int | None = field(default=None, metadata=records.OPTIONAL)
    impossible: int | None = field(default=None, metadata=records.OPTIONAL)
    unresolved: int | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListResult:
    """The recipes of a project and those that ship with jbuild."""

    recipes: tuple[ListedRecipe, ...]


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """List the recipes of this project and those that ship with jbuild."""
    console, workspace = Console(as_json=as_json), Workspace.current()
    rows = [_row(name, path, workspace) for name, path in sorted(recipe_paths(workspace.recipe_folders).items())]
    table = console.table(
        ("recipe", "cells", "description"), [(recipe.name, _cells(recipe), text) for recipe, text in rows]
    )
    show(ListResult(recipes=tuple(recipe for recipe, _ in rows)), table, console)


def _row(name: str, path: Path, workspace: Workspace) -> tuple[ListedRecipe, str]:
    """Return a recipe and its description in short; one with mistakes is listed too."""
    try:
        recipe = load(path, workspace.template_folders)
        cells = expand(recipe)
    except DocumentError as error:
        problems = [f"{problem.location}: {problem.message}" for problem in error.problems]
        more = f" (and {len(problems) - 1} more: `jbuild show {name}`)" if problems[1:] else ""
        text = f"has mistakes: {'; '.join(problems)}"
        return ListedRecipe(name=name, path=str(path), description="", error=text), f"has mistakes: {problems[0]}{more}"
    row = ListedRecipe(
        name=name,
        path=str(path),
        description=recipe.description,
        cells=len(cells),
        impossible=sum(1 for cell in cells if cell.impossible),
        unresolved=len(reasons(recipe, cells, workspace, lambda: config.load(workspace.config_files, families()))),
    )
    return row, recipe.description


def _cells(recipe: ListedRecipe) -> str:
    if recipe.cells is None:
        return "-"
    counts = ((recipe.impossible, "impossible"), (recipe.unresolved, "without wheels"))
    missing = ", ".join(f"{count} {word}" for count, word in counts if count)
    return f"{recipe.cells} ({missing})" if missing else str(recipe.cells)

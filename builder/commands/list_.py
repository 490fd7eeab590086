"""`jbuild list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder.commands.common import as_json
from builder.console import Console
from builder.errors import DocumentError
from builder.recipe.find import recipe_paths
from builder.recipe.load import load
from builder.recipe.matrix import expand
from builder.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path


@click.command("list")
@as_json
def command(as_json: bool) -> None:
    """List the recipes of this project and those that ship with jbuild."""
    console = Console(as_json=as_json)
    rows = [_row(name, path) for name, path in sorted(recipe_paths(Workspace.here().recipe_folders).items())]
    table = console.table(
        ("recipe", "cells", "description"), [(r["name"], _cells(r), r.get("error") or r["description"]) for r in rows]
    )
    console.result({"recipes": rows}, table)


def _row(name: str, path: Path) -> dict[str, Any]:
    """A recipe with mistakes is listed with them: one bad file must not hide the others."""
    try:
        recipe = load(path)
        cells = expand(recipe)
    except DocumentError as error:
        problems = [f"{p.place}: {p.message}" for p in error.problems]
        return {"name": name, "path": str(path), "error": "has mistakes: " + "; ".join(problems), "description": ""}
    impossible = sum(1 for cell in cells if cell.impossible)
    counts = {"cells": len(cells), "impossible": impossible}
    return {"name": name, "path": str(path), "description": recipe.description, **counts}


def _cells(row: dict[str, Any]) -> str:
    if "error" in row:
        return "-"
    return f"{row['cells']}" + (f" ({row['impossible']} impossible)" if row["impossible"] else "")

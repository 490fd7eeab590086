"""`jbuild list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder import config
from builder.commands.common import as_json
from builder.console import Console
from builder.errors import DocumentError
from builder.jetson.indexes import families
from builder.recipe.find import recipe_paths
from builder.recipe.load import load
from builder.recipe.matrix import expand
from builder.resolve.unresolved import reasons
from builder.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path


@click.command("list")
@as_json
def command(as_json: bool) -> None:
    """List the recipes of this project and those that ship with jbuild."""
    console, workspace = Console(as_json=as_json), Workspace.here()
    found = [_row(name, path, workspace) for name, path in sorted(recipe_paths(workspace.recipe_folders).items())]
    table = console.table(
        ("recipe", "cells", "description"), [(row["name"], _cells(row), about) for row, about in found]
    )
    console.result({"recipes": [row for row, _ in found]}, table)


def _row(name: str, path: Path, workspace: Workspace) -> tuple[dict[str, Any], str]:
    """Return what is said of a recipe, and in a few words: a bad file is listed too, and must not hide the others."""
    try:
        recipe = load(path, workspace.template_folders)
        cells = expand(recipe)
    except DocumentError as error:
        problems = [f"{p.place}: {p.message}" for p in error.problems]
        about = "has mistakes: " + problems[0]
        about += f" (and {len(problems) - 1} more: `jbuild show {name}`)" if problems[1:] else ""
        error_text = "has mistakes: " + "; ".join(problems)
        return {"name": name, "path": str(path), "error": error_text, "description": ""}, about
    impossible = sum(1 for cell in cells if cell.impossible)
    without = reasons(recipe, cells, workspace, lambda: config.load(workspace.config_files, families()))
    counts = {"cells": len(cells), "impossible": impossible, "unresolved": len(without)}
    return {"name": name, "path": str(path), "description": recipe.description, **counts}, recipe.description


def _cells(row: dict[str, Any]) -> str:
    if "error" in row:
        return "-"
    wrong = [
        f"{row[key]} {said}"
        for key, said in (("impossible", "impossible"), ("unresolved", "without wheels"))
        if row[key]
    ]
    return f"{row['cells']}" + (f" ({', '.join(wrong)})" if wrong else "")

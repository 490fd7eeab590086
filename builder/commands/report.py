"""`jbuild report`."""

from __future__ import annotations

from pathlib import Path

import click

from builder.commands import complete
from builder.commands.common import as_json, open_session
from builder.recipe.find import find, recipe_paths
from builder.report.cache import size_of
from builder.report.page.gather import gather
from builder.report.page.render import render
from builder.workspace import write_text


@click.command("report")
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...", shell_complete=complete.recipes)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: build/report.html.")
@as_json
def command(recipes: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Write one HTML page about RECIPEs, or about all: how far each cell is, what is in it, what failed and why.

    The page needs no network and no other file. Nothing is asked for it: it shows what was done from this project.
    """
    session = open_session(as_json=as_json)
    folders = session.workspace.recipe_folders
    paths = [find(name, folders) for name in recipes] or list(recipe_paths(folders).values())
    page = gather(paths, session)
    html = render(page)
    target = output or session.workspace.report
    write_text(target, html)
    described = {
        "path": str(target),
        "size": len(html.encode()),
        "counts": page.counts,
        "recipes": [
            {
                "recipe": recipe.name,
                "mistakes": list(recipe.mistakes),
                "cells": [
                    {"cell": c.id, "state": c.state, "detail": c.detail, "reason": c.reason} for c in recipe.cells
                ],
            }
            for recipe in page.recipes
        ],
    }
    counted = ", ".join(f"{count} {state}" for state, count in page.counts.items()) or "no cells"
    session.console.result(described, f"{target}: {size_of(len(html.encode()))}, {counted}")

"""`jbuild matrix`."""

from __future__ import annotations

import click

from builder.commands.common import as_json, cell_option, open_recipe, recipe_argument
from builder.console import Console
from builder.workspace import Workspace


@click.command("matrix")
@recipe_argument
@cell_option
@as_json
def command(recipe: str, selectors: tuple[str, ...], as_json: bool) -> None:
    """Show the cells of RECIPE: their values on each axis, and why one cannot be built."""
    console = Console(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, Workspace.here())
    axes = [axis.name for axis in found.matrix.axes]
    rows = [
        (
            c.id,
            *(c.value(axis) or "" for axis in axes),
            f"impossible: {c.impossible}" if c.impossible else c.note or "",
        )
        for c in cells
    ]
    described = [{"id": c.id, "values": dict(c.values), "impossible": c.impossible, "note": c.note} for c in cells]
    table = console.table(("cell", *axes, ""), rows)
    console.result({"recipe": found.name, "axes": axes, "cells": described}, table)

"""`jbuild matrix`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.resolve.unresolved import reasons

if TYPE_CHECKING:
    from builder.recipe.model import Cell


@click.command("matrix")
@recipe_argument
@cell_option
@as_json
def command(recipe: str, selectors: tuple[str, ...], as_json: bool) -> None:
    """Show the cells of RECIPE: their values on each axis, and why one cannot be built."""
    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    without = reasons(found, cells, session.workspace, lambda: session.config)
    axes = [axis.name for axis in found.matrix.axes]
    rows = [(c.id, *(c.value(axis) or "" for axis in axes), _said(c, without)) for c in cells]
    described = [
        {
            "id": c.id,
            "values": dict(c.values),
            "impossible": c.impossible,
            "unresolved": without.get(c.id),
            "note": c.note,
        }
        for c in cells
    ]
    table = session.console.table(("cell", *axes, ""), rows)
    session.console.result({"recipe": found.name, "axes": axes, "cells": described}, table)


def _said(cell: Cell, without: dict[str, str]) -> str:
    if cell.impossible:
        return f"impossible: {cell.impossible}"
    return without.get(cell.id, cell.note or "")

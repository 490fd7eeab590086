"""`jbuild matrix`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.commands import complete
from builder.commands.common import as_json, cell_option, open_recipe, open_session
from builder.recipe.patterns import RUNNER
from builder.resolve.unresolved import reasons

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.recipe.model import Cell, Recipe
    from builder.session import Session

_RUNNER = re.compile(rf"(?:(?P<architecture>amd64|arm64)=)?(?P<label>{RUNNER})")


def _runners(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        match = _RUNNER.fullmatch(value)
        if not match:
            raise click.BadParameter(f"{value!r} is no runner such as arm64=ubuntu-24.04-arm", context, parameter)
        found[match["architecture"] or ""] = match["label"]
    return found


@click.command("matrix")
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...", shell_complete=complete.recipes)
@cell_option
@click.option(
    "--changed-since",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Only cells whose inputs differ from FILE, which `--format inputs` wrote earlier.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "github", "inputs")),
    default="table",
    show_default=True,
    help="`github`: lines for $GITHUB_OUTPUT; `inputs`: JSON with fingerprints of each cell's inputs.",
)
@click.option(
    "--runner",
    "runners",
    multiple=True,
    callback=_runners,
    metavar="[ARCH=]LABEL",
    help="With --format github: the runner of all cells, or of an architecture's; may be repeated.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="With --format github: also as a file.")
@as_json
def command(
    recipes: tuple[str, ...],
    selectors: tuple[str, ...],
    changed_since: Path | None,
    form: str,
    runners: dict[str, str],
    output: Path | None,
    as_json: bool,
) -> None:
    """Show the cells of RECIPE: their values on each axis, and why one cannot be built."""
    session = open_session(as_json=as_json)
    if form != "github" and (runners or output):
        raise click.UsageError("--runner and --output go with --format github")
    if form == "table" and len(recipes) > 1:
        raise click.UsageError("one recipe at a time; several go with --format github")
    selected = [open_recipe(recipe, selectors, session.workspace) for recipe in recipes]
    if form == "inputs":
        _show_inputs(selected, session)
        return
    changed = _changed(selected, session, changed_since) if changed_since else None
    if form == "github":
        _show_jobs(selected, runners, changed, str(changed_since or ""), output, session)
    else:
        _show_table(*selected[0], changed, session)


def _changed(
    selected: Sequence[tuple[Recipe, Sequence[Cell]]], session: Session, before: Path
) -> dict[tuple[str, str], tuple[str, ...]]:
    from builder.ci.inputs import changes  # noqa: PLC0415  # needs the rooms of locks and images

    return changes(selected, session, before)


def _show_inputs(selected: Sequence[tuple[Recipe, Sequence[Cell]]], session: Session) -> None:
    from builder.ci.inputs import inputs_of  # noqa: PLC0415  # needs the rooms of locks and images

    found = {recipe.name: inputs_of(recipe, cells, session) for recipe, cells in selected}
    session.console.result({"recipes": found}, json.dumps({"recipes": found}, indent=2))


def _show_jobs(
    selected: Sequence[tuple[Recipe, Sequence[Cell]]],
    runners: Mapping[str, str],
    changed: Mapping[tuple[str, str], Sequence[str]] | None,
    since: str,
    output: Path | None,
    session: Session,
) -> None:
    from builder import records  # noqa: PLC0415
    from builder.ci.jobs import outputs, plan  # noqa: PLC0415
    from builder.workspace import write_text  # noqa: PLC0415

    made = plan(selected, runners, changed, since)
    described = records.plain(made)
    for entry in made.include:
        parts = ", ".join((changed or {}).get((entry.recipe, entry.cell), ()))
        session.console.say(f"{entry.name}: on {entry.runner}" + (f"; changed: {parts}" if parts else ""))
    for each in made.skipped:
        session.console.say(f"{each.recipe} {each.cell}: {each.status}: {each.reason}")
    if output:
        write_text(output, json.dumps(described, indent=2) + "\n")
    session.console.result(described, outputs(made))


def _show_table(
    recipe: Recipe,
    cells: Sequence[Cell],
    changed: Mapping[tuple[str, str], Sequence[str]] | None,
    session: Session,
) -> None:
    shown = [cell for cell in cells if changed is None or cell.impossible or changed.get((recipe.name, cell.id))]
    without = reasons(recipe, shown, session.workspace, lambda: session.config)
    axes = [axis.name for axis in recipe.matrix.axes]
    parts = {cell: tuple(found) for (_, cell), found in (changed or {}).items()}
    rows = [(c.id, *(c.value(axis) or "" for axis in axes), _said(c, without, parts)) for c in shown]
    described = [_described(cell, without, None if changed is None else parts) for cell in shown]
    table = session.console.table(("cell", *axes, ""), rows)
    unchanged = len(cells) - len(shown)
    if unchanged:
        session.console.say(f"{unchanged} of {len(cells)} cells are unchanged")
    session.console.result({"recipe": recipe.name, "axes": axes, "cells": described}, table)


def _described(cell: Cell, without: Mapping[str, str], parts: Mapping[str, Sequence[str]] | None) -> dict[str, Any]:
    shown = {
        "id": cell.id,
        "values": dict(cell.values),
        "impossible": cell.impossible,
        "unresolved": without.get(cell.id),
        "note": cell.note,
    }
    return shown if parts is None else {**shown, "changed": list(parts.get(cell.id, ()))}


def _said(cell: Cell, without: Mapping[str, str], parts: Mapping[str, Sequence[str]]) -> str:
    if cell.impossible:
        return f"impossible: {cell.impossible}"
    changed = f"changed: {', '.join(parts[cell.id])}" if parts.get(cell.id) else ""
    return without.get(cell.id) or "; ".join(filter(None, (changed, cell.note or "")))

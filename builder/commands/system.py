"""`jbuild system`."""

from __future__ import annotations

import click

from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.commands.working import builder_option, registry_option
from builder.errors import RecipeError, UsageError
from builder.pipeline.order import RunOptions
from builder.resolve.jobs import job_of
from builder.systems import make_systems
from builder.workspace import check_cache


@click.command("system")
@recipe_argument
@cell_option
@click.option("--force", is_flag=True, help="Build anew what is pinned, with the package mirror's newest packages.")
@registry_option
@builder_option
@as_json
def command(
    recipe: str,
    selectors: tuple[str, ...],
    force: bool,
    registries: tuple[str, ...],
    builders: tuple[str, ...],
    as_json: bool,
) -> None:
    """Build the system layers of RECIPE's cells once, push them, and pin them by digest for all later builds.

    The pins are kept in locks/systems.toml: whoever builds with that file builds on the same packages.
    """
    session = open_session(as_json=as_json)
    check_cache(session.workspace)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    jobs = [job_of(found, cell) for cell in cells if not cell.impossible]
    if not jobs:
        hint = f"`jbuild matrix {found.name}` shows every cell, and why it cannot be built"
        raise RecipeError(f"none of the selected cells of {found.name} can be built", where=str(found.path), hint=hint)
    targets = registries or found.spec.publish.registries or session.config.registries
    if not targets:
        hint = "name one with --registry HOST/PREFIX, or `registries` under [publish] in the recipe or jbuild.toml"
        raise UsageError("no registry to keep the layers in", where=str(found.path), hint=hint)
    options = RunOptions(until="lock", registries=registries, builders=builders)
    done = make_systems(jobs, session, options, targets[0], force=force)
    rows = [{"cell": d.cell, "image": d.layer.image, "digest": d.layer.digest, "made": d.made} for d in done]
    lines = [f"{d.cell}: {'pinned' if d.made else 'is pinned'}: {d.layer.image}@{d.layer.digest}" for d in done]
    described = {"recipe": found.name, "pins": str(session.workspace.systems), "cells": rows}
    session.console.result(described, "\n".join(lines))

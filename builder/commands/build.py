"""`jbuild build`."""

from __future__ import annotations

import click

from builder.commands.common import as_json, cell_option, recipe_argument
from builder.commands.working import run_options, work
from builder.pipeline.order import RunOptions


@click.command("build")
@recipe_argument
@cell_option
@click.option("--verify", is_flag=True, help="Build a second time without any cache, and compare the two images.")
@run_options
@as_json
def command(
    recipe: str,
    selectors: tuple[str, ...],
    verify: bool,
    force: bool,
    locked: bool,
    jobs: int,
    registries: tuple[str, ...],
    builders: tuple[str, ...],
    as_json: bool,
) -> int:
    """Build the cells of RECIPE into images. Earlier stages run first where they are missing or out of date.

    With --verify each is built twice; if the images differ, the first layer and file that do are named.
    """
    options = RunOptions(
        until="build",
        again="build" if force else None,
        locked_only=locked,
        registries=registries,
        builders=builders,
        verify=verify,
    )
    return work(recipe, selectors, options, at_once=jobs, dry_run=False, as_json=as_json)

"""`jbuild recipe`."""

from __future__ import annotations

from pathlib import Path

import click

from builder.commands.common import as_json, cell_option, recipe_argument
from builder.commands.working import force_tags_option, run_options, work
from builder.pipeline.order import STAGES, RunOptions


@click.command("recipe")
@recipe_argument
@cell_option
@click.option("--push", is_flag=True, help="Publish the cells that have proved themselves.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@click.option(
    "--from", "again", type=click.Choice(STAGES), help="Run this stage and the later ones even if nothing changed."
)
@click.option("--until", type=click.Choice(STAGES), help="Stop after this stage.")
@click.option(
    "--result",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write what came of the cells to this file, as JSON; `jbuild summary` reads it.",
)
@force_tags_option
@run_options
@as_json
def command(
    recipe: str,
    selectors: tuple[str, ...],
    push: bool,
    dry_run: bool,
    again: str | None,
    until: str | None,
    result: Path | None,
    force: bool,
    locked: bool,
    jobs: int,
    registries: tuple[str, ...],
    force_tags: bool,
    builders: tuple[str, ...],
    as_json: bool,
) -> int:
    """Make the cells of RECIPE: lock, render, build, smoke and, with --push, publish.

    Stages whose inputs are unchanged are not run again, so the same command resumes a run that was interrupted.
    """
    last = until or ("push" if push else "smoke")
    if push and STAGES.index(last) < STAGES.index("push"):
        raise click.UsageError(f"--push and --until {last} exclude each other")
    options = RunOptions(
        until=last,
        again="lock" if force else again,
        locked_only=locked,
        registries=registries,
        force_tags=force_tags,
        builders=builders,
    )
    if options.again and options.again not in options.stages:
        more = "add --push" if again == "push" and not until else f"--from {again} comes after --until {last}"
        raise click.UsageError(f"{more}: the run ends with {last}, before {again}")
    return work(recipe, selectors, options, at_once=jobs, dry_run=dry_run, as_json=as_json, result=result)

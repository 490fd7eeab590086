"""`jbuild recipe`: runs the stages of cells. The stage verbs are aliases of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.cell_selection import CellSelection, naming, recipe_verb
from builder.cli.results import show, show_failures, write
from builder.cli.run_view import DryRun, RunResult, dry_run_of, dry_run_text, run_result, summary
from builder.cli.verb_options import (
    FILE,
    RUN_OPTIONS,
    builder_option,
    force_tags_option,
    push_registry_option,
    refuse_options,
)
from builder.errors import CellsFailedError, EngineError
from builder.host import leftovers
from builder.host.engine.docker import find_engine
from builder.host.engine.gpu_access import GpuAccess
from builder.host.paths import check_cache
from builder.pipeline.order import STAGES, RunOptions

if TYPE_CHECKING:
    from builder.host.session import Session

RecipeResult = RunResult | DryRun


@recipe_verb(
    "recipe",
    click.option("--push", is_flag=True, help="Push images that passed their smoke run."),
    click.option("--dry-run", is_flag=True, help="Show the stages that would run, and run none."),
    click.option(
        "--from",
        "again",
        type=click.Choice(STAGES),
        help="Run this stage and the later ones even if nothing has changed.",
    ),
    click.option("--until", type=click.Choice(STAGES), help="Stop after this stage."),
    click.option("--result", type=FILE, help="Write the result to this file too, as JSON. `jbuild summary` reads it."),
    force_tags_option,
    *RUN_OPTIONS,
    push_registry_option,
    builder_option,
)
def command(
    selection: CellSelection,
    push: bool,
    dry_run: bool,
    again: str | None,
    until: str | None,
    result: Path | None,
    force: bool,
    locked: bool,
    jobs: int,
    **more: Any,
) -> int:
    """Lock, audit, render, build and smoke the cells of RECIPE, and push them with --push.

    A stage runs if its inputs have changed, so the same command resumes an interrupted run.
    """
    last = until or ("push" if push else "smoke")
    _check_options(last, again=again, push=push, until=until)
    options = RunOptions(until=last, again="lock" if force else again, locked_only=locked, **more)
    return run(selection, options, parallel=jobs, dry_run=dry_run, file=result)


def _check_options(last: str, *, again: str | None, push: bool, until: str | None) -> None:
    index = STAGES.index(last)
    if push and last != "push":
        raise click.UsageError(f"--push and --until {last} exclude each other")
    if again and STAGES.index(again) > index:
        fix = "add --push" if again == "push" and not until else f"--from {again} comes after --until {last}"
        raise click.UsageError(f"{fix}: the run ends with {last}, before {again}")
    if last != "push":
        refuse_options(("registries", "force_tags"), "needs --push")
    if index < STAGES.index("build"):
        refuse_options(("builders",), f"has no effect: the run ends with {last}, before build")


def run(
    selection: CellSelection, options: RunOptions, *, parallel: int, dry_run: bool = False, file: Path | None = None
) -> int:
    """Run stages of the selected cells, show the result (and write it to a file), and return the exit code.

    Raises:
        JbuildError: the run could not start, or its only cell failed.
    """
    session, recipe = selection.session, selection.recipe.name
    check_cache(session.workspace)
    selection.show_impossible()
    jobs = selection.jobs()
    from builder.pipeline import runner  # noqa: PLC0415  # slow to import; completion does without

    if options.upgrade:
        from builder.lock.lock_check import check_upgrades  # noqa: PLC0415  # slow to import

        check_upgrades(jobs, options.upgrade, session)
    for job in jobs:
        runner.check(job, session, options)
    if dry_run:
        previews = {job.cell.id: runner.preview(job, session, options) for job in jobs}
        show(dry_run_of(recipe, previews), dry_run_text(previews), session.console)
        return 0
    runner.check_servers(jobs, session, options)
    leftovers.clear(session)
    started = time.monotonic()
    results = runner.run_cells(jobs, session, options, at_once=parallel)
    seconds = time.monotonic() - started
    result = run_result(recipe, results, [cell for cell in selection.cells if cell.impossible], seconds)
    if file:
        write(file, result)
    failures = [(result.run.job.cell.id, naming(result.error, recipe)) for result in results if result.error]
    if failures and len(results) == 1:
        raise failures[0][1]
    show_failures(failures, session.console)
    show(result, summary(results, seconds, *_engine(session)), session.console)
    return CellsFailedError.exit_code if failures else 0


def _engine(session: Session) -> tuple[str | None, GpuAccess | None]:
    """Return the DOCKER_HOST with which the summary's commands reach the engine, if it must be set, and its GPU."""
    try:
        engine = find_engine(session.workspace, session.config.gpu)
    except EngineError:
        return None, None
    return engine.docker_host if engine.source == "scripts/engine" else None, engine.gpu

"""The verbs that make something: from cells to jobs, through the pipeline, to a summary and an exit code."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder.commands.common import open_recipe, open_session
from builder.config import BUILDER_PATTERN, REGISTRY_PATTERN
from builder.errors import CellsFailedError, EngineError, RecipeError
from builder.resolve.jobs import job_of
from builder.workspace import check_cache, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.pipeline.order import RunOptions
    from builder.pipeline.runner import CellResult
    from builder.recipe.model import Cell, Recipe
    from builder.resolve.model import Job
    from builder.session import Session

_F = TypeVar("_F", bound="Callable[..., Any]")


def _builders(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(BUILDER_PATTERN, value):
            raise click.BadParameter(f"{value!r} is not a builder's name", context, parameter)
    return values


def checked_registries(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return what was given, if every one is a registry's name."""
    for value in values:
        if not re.fullmatch(REGISTRY_PATTERN, value):
            raise click.BadParameter(f"{value!r} is not a registry such as host:5000/team", context, parameter)
    return values


registry_option = click.option(
    "--registry",
    "registries",
    multiple=True,
    metavar="HOST/PREFIX",
    callback=checked_registries,
    help="Push to this registry instead of the configured ones; may be repeated.",
)
force_tags_option = click.option(
    "--force-tags", is_flag=True, help="Put earned tags even if they are immutable or on a newer image."
)
builder_option = click.option(
    "--builder",
    "builders",
    multiple=True,
    metavar="NAME",
    callback=_builders,
    help="Build with this buildx builder or docker context instead of the engine's own; deals out if repeated.",
)


def run_options(function: _F) -> _F:
    """Add the options that all working verbs have."""
    options = (
        click.option("--force", is_flag=True, help="Run even if nothing changed."),
        click.option("--locked", is_flag=True, help="Fail if a lock is missing or stale instead of making it."),
        click.option(
            "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Cells worked on at once."
        ),
        registry_option,
        builder_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def work(
    recipe: str,
    selectors: Sequence[str],
    options: RunOptions,
    *,
    at_once: int,
    dry_run: bool,
    as_json: bool,
    result: Path | None = None,
) -> int:
    """Run stages for the selected cells, print what came of it (and write it to `result`), and return the exit code.

    Raises:
        JbuildError: nothing could be begun, or the only cell failed.
    """
    session = open_session(as_json=as_json)
    check_cache(session.workspace)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    impossible = [cell for cell in cells if cell.impossible]
    jobs = possible_jobs(found, cells, session)
    from builder.resolve.upgrades import check_upgrades  # noqa: PLC0415  # slow to import; completion does without

    check_upgrades(jobs, options.upgrade, session)
    from builder.pipeline.runner import check  # noqa: PLC0415  # slow to import; completion does without

    for job in jobs:
        check(job, session, options)
    if dry_run:
        return _preview(found, jobs, session, options)
    from builder.pipeline.runner import run_cells  # noqa: PLC0415  # slow to import; completion and --help do without

    begun = time.monotonic()
    results = run_cells(jobs, session, options, at_once=at_once)
    seconds = time.monotonic() - begun
    described = _described(found, results, impossible, seconds)
    if result:
        write_text(result, json.dumps(described, indent=2) + "\n")
    return _conclude(results, described, session, seconds)


def possible_jobs(recipe: Recipe, cells: Sequence[Cell], session: Session) -> list[Job]:
    """Return the cells that can be built, with everything that is needed to make them; say why others cannot be.

    Raises:
        RecipeError: none can.
    """
    for cell in cells:
        if cell.impossible:
            session.console.say(f"{cell.id}: impossible: {cell.impossible}")
    jobs = [job_of(recipe, cell) for cell in cells if not cell.impossible]
    if not jobs:
        hint = f"`jbuild matrix {recipe.name}` shows every cell, and why it cannot be built"
        message = f"none of the selected cells of {recipe.name} can be built"
        raise RecipeError(message, where=str(recipe.path), hint=hint)
    return jobs


def _preview(recipe: Recipe, jobs: Sequence[Job], session: Session, options: RunOptions) -> int:
    from builder.pipeline.runner import preview  # noqa: PLC0415
    from builder.report.summary import preview_lines  # noqa: PLC0415

    previews = {job.cell.id: preview(job, session, options) for job in jobs}
    lines = [line for cell, states in previews.items() for line in preview_lines(cell, states)]
    described = {cell: {each.stage: each.state for each in states} for cell, states in previews.items()}
    failed = {cell: each.why for cell, states in previews.items() for each in states if each.why}
    session.console.result({"recipe": recipe.name, "dry_run": described, "failed": failed}, "\n".join(lines))
    return 0


def _described(
    recipe: Recipe, results: Sequence[CellResult], impossible: Sequence[Cell], seconds: float
) -> dict[str, Any]:
    from builder.report.summary import cell_json  # noqa: PLC0415

    cells = [cell_json(result) for result in results]
    cells += [{"cell": cell.id, "status": "impossible", "reason": cell.impossible} for cell in impossible]
    return {"recipe": recipe.name, "seconds": round(seconds, 1), "cells": cells}


def _conclude(results: Sequence[CellResult], described: dict[str, Any], session: Session, seconds: float) -> int:
    from builder.report.summary import summary  # noqa: PLC0415

    console = session.console
    failed = [result for result in results if result.error]
    if len(results) == 1 and failed and failed[0].error:
        raise failed[0].error
    from builder.report.failures import show_failures  # noqa: PLC0415

    show_failures([(each.run.job.cell.id, each.error) for each in failed if each.error], console)
    console.result(described, summary(results, seconds, _docker_host(session)))
    return CellsFailedError.exit_code if failed else 0


def _docker_host(session: Session) -> str | None:
    """Return what DOCKER_HOST must be for the commands that are shown to reach the engine, if it must be set."""
    from builder.engine import find_engine  # noqa: PLC0415

    try:
        engine = find_engine(session.workspace)
    except EngineError:
        return None
    return engine.docker_host if engine.source == "scripts/engine" else None

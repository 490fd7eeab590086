"""`jbuild smoke`: an alias of `jbuild recipe --until smoke`, or the smoke run of a bundle's image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.cell_selection import naming, select_cells, session_verb
from builder.cli.results import show
from builder.cli.run_view import RunResult, verdict_lines
from builder.cli.verb_options import (
    RUN_OPTIONS,
    builder_option,
    cell_option,
    complete_recipes,
    level_option,
    refuse_options,
)
from builder.cli.verbs.recipe import run
from builder.errors import JbuildError
from builder.host import leftovers
from builder.host.paths import check_cache
from builder.host.session import Session
from builder.pipeline.order import RunOptions
from builder.publish.bundle.smoke_bundle import BundleVerdict, smoke_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

SmokeResult = RunResult | BundleVerdict


@session_verb(
    "smoke",
    click.argument("recipe", required=False, shell_complete=complete_recipes),
    cell_option,
    click.option(
        "--bundle",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Run the image of this bundle instead, and write the verdict to DIR/verdict.",
    ),
    level_option("With --bundle: refuse to run where the verdict cannot reach this level."),
    click.option("--record", is_flag=True, help="Record the answers, for comparison in later smoke runs."),
    *RUN_OPTIONS,
    builder_option,
)
def smoke(
    session: Session,
    recipe: str | None,
    selectors: Sequence[str],
    bundle: Path | None,
    level: str | None,
    record: bool,
    force: bool,
    locked: bool,
    jobs: int,
    builders: tuple[str, ...],
) -> int:
    """Run the images of RECIPE's cells and test their answers. Runs earlier stages first if they are out of date.

    With --bundle, runs the image of a bundle: it needs neither a network nor a registry. `jbuild promote --verdict
    DIR/verdict` takes the verdict home.
    """
    again = "smoke" if force else None
    if bundle is None:
        refuse_options(("level",), "needs --bundle")
        if recipe is None:
            raise click.UsageError("name a RECIPE, or a bundle with --bundle DIR", click.get_current_context())
        selection = select_cells(recipe, selectors, session)
        options = RunOptions(until="smoke", again=again, locked_only=locked, record=record, builders=builders)
        try:
            return run(selection, options, parallel=jobs)
        except JbuildError as error:
            raise naming(error, selection.recipe.name)  # noqa: B904  # the same error
    if recipe is not None:
        raise click.UsageError("RECIPE and --bundle exclude each other: a bundle names its recipe")
    refuse_options(("selectors", "locked", "jobs", "builders"), "has no effect with --bundle")
    return _smoke_bundle(bundle, session, RunOptions(until="smoke", again=again, record=record), level)


def _smoke_bundle(folder: Path, session: Session, options: RunOptions, level: str | None) -> int:
    check_cache(session.workspace)
    leftovers.clear(session)
    try:
        result = smoke_bundle(folder, session, options, level)
    except JbuildError as error:
        if error.hint:
            error.hint = re.sub(r"`jbuild smoke RECIPE\b", f"`jbuild smoke --bundle {folder}", error.hint)
        raise
    show(result, _text(result), session.console)
    return 0


def _text(result: BundleVerdict) -> str:
    lines = [f"{result.recipe}/{result.cell}: {'done' if result.ran else 'unchanged'}"]
    lines += [f"  image     {result.image}, {result.verdict.digest}"]
    lines += [f"  {line}" for line in verdict_lines(result.verdict, earlier=not result.ran)]
    lines += [f"  recorded  {result.golden}"] if result.golden else []
    return "\n".join([*lines, f"  verdict   {result.file}"])

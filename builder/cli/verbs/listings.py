"""`jbuild list` and `jbuild matrix`: recipes and their cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from builder.cli.cell_selection import open_session, select_cells, session_verb
from builder.cli.results import as_text, failed_text, running_text, show, table, write
from builder.cli.verb_options import FILE, cell_option, complete_recipes, json_option, output_option, refuse_options
from builder.errors import DocumentError, LockError
from builder.host import records
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.lock.unresolved import reasons
from builder.model.patterns import RUNNER
from builder.model.recipes import Cell, Recipe
from builder.pipeline.failure import Failure, RunningStage
from builder.project.ci.github_jobs import CiPlan, outputs, plan
from builder.recipe.find import recipe_paths
from builder.recipe.load import load
from builder.recipe.matrix import expand

_RUNNER = re.compile(rf"(?:(?P<architecture>amd64|arm64)=)?(?P<label>{RUNNER})")
Selected = Sequence[tuple[Recipe, Sequence[Cell]]]
Changes = Mapping[tuple[str, str], Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedRecipe:
    """One recipe: how many cells it has, or, in `error`, its mistakes.

    `failures` are by cell: the stages that failed and have not succeeded since, without those of unresolved cells.
    `running` are the stages that processes work on now, by cell.
    """

    name: str
    path: str
    description: str
    error: str | None = field(default=None, metadata=records.OPTIONAL)
    cells: int | None = field(default=None, metadata=records.OPTIONAL)
    impossible: int | None = field(default=None, metadata=records.OPTIONAL)
    unresolved: int | None = field(default=None, metadata=records.OPTIONAL)
    failures: dict[str, tuple[Failure, ...]] | None = field(default=None, metadata=records.OPTIONAL)
    running: dict[str, RunningStage] | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListResult:
    """The recipes of a project and those that ship with jbuild."""

    recipes: tuple[ListedRecipe, ...]


@click.command("list")
@json_option
def list_recipes(as_json: bool) -> None:
    """List the recipes of this project and those that ship with jbuild."""
    console, workspace = Console(as_json=as_json), Workspace.current()
    rows = [_listed(name, path, workspace) for name, path in sorted(recipe_paths(workspace.recipe_folders).items())]
    text = table(
        ("recipe", "cells", "description"), [(recipe.name, _cell_counts(recipe), about) for recipe, about in rows]
    )
    recipes = tuple(recipe for recipe, _ in rows)
    show(ListResult(recipes=recipes), "\n".join([text, *_failure_lines(recipes)]), console)


def _listed(name: str, path: Path, workspace: Workspace) -> tuple[ListedRecipe, str]:
    """Return a recipe and its description in short; one with mistakes is listed too."""
    try:
        recipe = load(path, workspace.template_folders)
        cells = expand(recipe)
    except DocumentError as error:
        problems = [f"{problem.location}: {problem.message}" for problem in error.problems]
        more = f" (and {len(problems) - 1} more: `jbuild show {name}`)" if problems[1:] else ""
        text = f"has mistakes: {'; '.join(problems)}"
        return ListedRecipe(name=name, path=str(path), description="", error=text), f"has mistakes: {problems[0]}{more}"
    without = reasons(recipe, cells, workspace, lambda: open_session().config)
    states = _states([cell for cell in cells if not cell.impossible], workspace)
    row = ListedRecipe(
        name=name,
        path=str(path),
        description=recipe.description,
        cells=len(cells),
        impossible=sum(1 for cell in cells if cell.impossible),
        unresolved=len(without),
        failures={cell: state.failures for cell, state in states.items() if state.failures and cell not in without}
        or None,
        running={cell: state.running for cell, state in states.items() if state.running} or None,
    )
    return row, recipe.description


@dataclass(frozen=True, kw_only=True, slots=True)
class _CellState:
    """The failed stages of a cell, and the one that runs now."""

    failures: tuple[Failure, ...] = ()
    running: RunningStage | None = None


def _states(cells: Sequence[Cell], workspace: Workspace) -> dict[str, _CellState]:
    """Return the states of those cells that have run."""
    begun = (cell for cell in cells if workspace.cell(cell.recipe, cell.id).path.is_dir())
    return {cell.id: _state(cell, workspace) for cell in begun}


def _state(cell: Cell, workspace: Workspace) -> _CellState:
    from builder.lock import lockfile  # noqa: PLC0415  # slow to import
    from builder.pipeline.history import open_failures, running, runs  # noqa: PLC0415  # and this

    folder, path = workspace.cell(cell.recipe, cell.id), workspace.lock(cell.recipe, cell.id)
    past, now = runs(folder), running(folder)
    failures = open_failures(past, now)
    if failures and path.is_file():
        # A damaged lock is `jbuild show`'s to report.
        with suppress(LockError):
            failures = open_failures(past, now, lock=lockfile.read_unchecked(path)[0])
    return _CellState(failures=failures, running=now)


def _failure_lines(recipes: Sequence[ListedRecipe]) -> Iterator[str]:
    """Yield the failures of cells, each once with the number of cells that failed alike."""
    for recipe in recipes:
        alike: dict[tuple[object, ...], list[Failure]] = {}
        for failed in (recipe.failures or {}).values():
            for failure in failed:
                alike.setdefault((failure.stage, failure.message, failure.outdated), []).append(failure)
        for failures in alike.values():
            latest = max(failures, key=lambda failure: failure.when or "")
            count = f"{len(failures)} cells" if len(failures) > 1 else "a cell"
            yield f"{recipe.name}: {count} failed {failed_text(latest)}; `jbuild show {recipe.name}`"


def _cell_counts(recipe: ListedRecipe) -> str:
    if recipe.cells is None:
        return "-"
    failures = (recipe.failures or {}).values()
    failed = sum(1 for failed in failures if any(not failure.outdated for failure in failed))
    counts = (
        (recipe.impossible, "impossible"),
        (recipe.unresolved, "without wheels"),
        (failed, "failed"),
        (len(recipe.running or ()), "running"),
    )
    missing = ", ".join(f"{count} {word}" for count, word in counts if count)
    return f"{recipe.cells} ({missing})" if missing else str(recipe.cells)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixCell:
    """One cell; `changed` lists, with --changed-since, the inputs that differ (`new`: the file lacks the cell).

    `failures` are the stages that failed and have not succeeded since, the latest last; `running` is the stage that a
    process works on now.
    """

    id: str
    values: dict[str, str]
    impossible: str | None
    unresolved: str | None
    note: str | None
    changed: tuple[str, ...] | None = field(default=None, metadata=records.OPTIONAL)
    failures: tuple[Failure, ...] = ()
    running: RunningStage | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellTable:
    """The cells of a recipe."""

    recipe: str
    axes: tuple[str, ...]
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class InputDigests:
    """With --format inputs: fingerprints by recipe, cell and input."""

    recipes: dict[str, dict[str, dict[str, str]]]


MatrixResult = CellTable | CiPlan | InputDigests


def _runners(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for value in values:
        match = _RUNNER.fullmatch(value)
        if not match:
            raise click.BadParameter(f"{value!r} is not a runner such as arm64=ubuntu-24.04-arm", context, parameter)
        labels[match["architecture"] or ""] = match["label"]
    return labels


@session_verb(
    "matrix",
    click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...", shell_complete=complete_recipes),
    cell_option,
    click.option(
        "--changed-since",
        type=FILE,
        metavar="FILE",
        help="Only cells whose inputs differ from those in FILE, an earlier output of --format inputs.",
    ),
    click.option(
        "--format",
        "form",
        type=click.Choice(("table", "github", "inputs")),
        default="table",
        show_default=True,
        help="`github`: a job matrix for $GITHUB_OUTPUT. `inputs`: JSON with fingerprints of each cell's inputs.",
    ),
    click.option(
        "--runner",
        "runners",
        multiple=True,
        callback=_runners,
        metavar="[ARCH=]LABEL",
        help="With --format github: runner of all cells, or of one architecture. Can be repeated.",
    ),
    output_option("With --format github: write the plan to this file too."),
)
def list_cells(
    session: Session,
    recipes: tuple[str, ...],
    selectors: tuple[str, ...],
    changed_since: Path | None,
    form: str,
    runners: dict[str, str],
    output: Path | None,
) -> None:
    """List the cells of RECIPE: their values on each axis, and why a cell cannot be built."""
    if form != "github":
        refuse_options(("runners", "output"), "needs --format github")
    if form == "table" and len(recipes) > 1:
        raise click.UsageError("only --format github and inputs take several recipes")
    selections = (select_cells(recipe, selectors, session) for recipe in recipes)
    selected = [(selection.recipe, selection.cells) for selection in selections]
    if form == "inputs":
        refuse_options(("changed_since",), "has no effect on --format inputs")
        _show_inputs(selected, session)
        return
    changed = None
    if changed_since:
        from builder.project.ci.cell_inputs import changes  # noqa: PLC0415  # needs the rooms of locks and images

        changed = changes(selected, session, changed_since)
    if form == "github":
        _show_jobs(plan(selected, runners, changed, str(changed_since or "")), changed or {}, output, session)
    else:
        _show_table(*selected[0], changed, session)


def _show_inputs(selected: Selected, session: Session) -> None:
    from builder.project.ci.cell_inputs import inputs_of  # noqa: PLC0415  # needs the rooms of locks and images

    inputs = {recipe.name: inputs_of(recipe, cells, session) for recipe, cells in selected}
    result = InputDigests(
        recipes={name: {cell: dict(digests) for cell, digests in cells.items()} for name, cells in inputs.items()}
    )
    show(result, as_text(result), session.console)


def _show_jobs(result: CiPlan, changed: Changes, output: Path | None, session: Session) -> None:
    for entry in result.include:
        inputs = ", ".join(changed.get((entry.recipe, entry.cell), ()))
        session.console.say(f"{entry.name}: on {entry.runner}" + (f"; changed: {inputs}" if inputs else ""))
    for cell in result.skipped:
        session.console.say(f"{cell.recipe} {cell.cell}: {cell.status}: {cell.reason}")
    if output:
        write(output, result)
    show(result, outputs(result), session.console)


def _show_table(recipe: Recipe, cells: Sequence[Cell], changed: Changes | None, session: Session) -> None:
    selected = [cell for cell in cells if changed is None or cell.impossible or changed.get((recipe.name, cell.id))]
    without = reasons(recipe, selected, session.workspace, lambda: session.config)
    states = _states([cell for cell in selected if not cell.impossible], session.workspace)
    rows = tuple(
        MatrixCell(
            id=cell.id,
            values=dict(cell.values),
            impossible=cell.impossible,
            unresolved=without.get(cell.id),
            note=cell.note,
            changed=None if changed is None else tuple(changed.get((recipe.name, cell.id), ())),
            failures=states.get(cell.id, _CellState()).failures,
            running=states.get(cell.id, _CellState()).running,
        )
        for cell in selected
    )
    axes = tuple(axis.name for axis in recipe.matrix.axes)
    lines = [(row.id, *(row.values.get(axis, "") for axis in axes), _remark(row)) for row in rows]
    if len(selected) < len(cells):
        session.console.say(f"{len(cells) - len(selected)} of {len(cells)} cells are unchanged")
    result = CellTable(recipe=recipe.name, axes=axes, cells=rows)
    show(result, table(("cell", *axes, ""), lines), session.console)


def _remark(cell: MatrixCell) -> str:
    if cell.impossible:
        return f"impossible: {cell.impossible}"
    changed = f"changed: {', '.join(cell.changed)}" if cell.changed else ""
    running = f"running: {running_text(cell.running)}" if cell.running else ""
    latest = sorted(cell.failures, key=lambda failure: not failure.outdated)[-1:]
    failed = "".join(f"failed {failed_text(failure)}" for failure in latest)
    rest = (cell.unresolved,) if cell.unresolved else (failed, changed, cell.note)
    return "; ".join(filter(None, (running, *rest)))

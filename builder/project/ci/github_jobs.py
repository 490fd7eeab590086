"""Cells as jobs of a GitHub matrix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from builder.errors import UsageError
from builder.host import records
from builder.project.ci.ci_plan import CiPlan, MatrixEntry, Skipped
from builder.project.ci.runners import github
from builder.recipe.matrix import runners_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.model.recipes import Cell, Recipe

    Selected = Sequence[tuple[Recipe, Sequence[Cell]]]
    Changes = Mapping[tuple[str, str], Sequence[str]]


def plan(selected: Selected, runners: Mapping[str, str], changed: Changes | None = None, since: str = "") -> CiPlan:
    """Return the jobs for the cells of some recipes.

    `runners` are labels by architecture, with `""` for all others: they win over the recipes' own. `changed` names the
    inputs of a cell that differ from the file `since`; a cell without any gets no job.

    Raises:
        UsageError: these are more jobs than a matrix may have.
    """
    include: list[MatrixEntry] = []
    skipped: list[Skipped] = []
    for recipe, cells in selected:
        for cell in cells:
            if cell.impossible:
                skipped.append(_skipped(cell, "impossible", cell.impossible))
            elif changed is not None and not changed.get((recipe.name, cell.id)):
                skipped.append(_skipped(cell, "unchanged", f"no input changed since {since}"))
            else:
                include.append(_entry(recipe, cell, runners))
    _check_count(include)
    return CiPlan(include=tuple(include), skipped=tuple(skipped))


def outputs(made: CiPlan) -> str:
    """Return the plan as lines for `$GITHUB_OUTPUT`: the matrix, and how many cells it has."""
    matrix = json.dumps({"include": records.to_json(made.include)}, separators=(",", ":"))
    return f"matrix={matrix}\ncells={len(made.include)}"


def _entry(recipe: Recipe, cell: Cell, runners: Mapping[str, str]) -> MatrixEntry:
    own, board = runners_of(recipe, cell)
    architecture = recipe.architecture
    usual = github().runners[0].label
    return MatrixEntry(
        recipe=recipe.name,
        cell=cell.id,
        name=f"{recipe.name} {cell.id}",
        architecture=architecture,
        platform=f"linux/{architecture}",
        runner=runners.get(architecture) or runners.get("") or own or usual,
        smoke_runner=board or "",
    )


def _skipped(cell: Cell, status: Literal["impossible", "unchanged"], reason: str) -> Skipped:
    return Skipped(recipe=cell.recipe, cell=cell.id, status=status, reason=reason)


def _check_count(include: Sequence[MatrixEntry]) -> None:
    most = github().most_jobs
    if len(include) > most:
        raise UsageError(
            f"{len(include)} cells are more than the {most} jobs that a matrix of GitHub's may have",
            where=", ".join(dict.fromkeys(entry.recipe for entry in include)),
            hint="choose some with --cell axis=value or --changed-since FILE, or call the workflow once for each part",
        )

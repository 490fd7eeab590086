"""Cells as jobs of a GitHub matrix. `runners.toml` has GitHub's usual runner and limits."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.errors import UsageError
from builder.host import records
from builder.host.toml import documents
from builder.model import patterns
from builder.recipe.matrix import runners_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.model.recipes import Cell, Recipe

    Selected = Sequence[tuple[Recipe, Sequence[Cell]]]
    Changes = Mapping[tuple[str, str], Sequence[str]]
    from builder.host.toml.tables import Table

DATA = Path(__file__).with_name("runners.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixEntry:
    """One cell as one job of a matrix.

    `platform` is docker's (`linux/arm64`). `runner` is the label of the building runner, `smoke_runner` that of the
    recipe's board, empty without one.
    """

    recipe: str
    cell: str
    name: str
    architecture: str
    platform: str
    runner: str
    smoke_runner: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A cell without a job, and the reason."""

    recipe: str
    cell: str
    status: Literal["impossible", "unchanged"]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CiPlan:
    """The jobs, and the cells without one."""

    include: tuple[MatrixEntry, ...]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class GitHub:
    """The limit of jobs in a matrix, and the label of the runner for cells without one."""

    most_jobs: int
    usual_runner: str


def plan(selected: Selected, runners: Mapping[str, str], changed: Changes | None = None, since: str = "") -> CiPlan:
    """Return the jobs for the cells of some recipes.

    `runners` are labels by architecture, with `""` for all others; they override the recipes' own. `changed` names the
    inputs of a cell that differ from the file `since`; a cell without any gets no job.

    Raises:
        UsageError: a matrix may not have as many jobs.
    """
    include: list[MatrixEntry] = []
    skipped: list[Skipped] = []
    for recipe, cells in selected:
        for cell in cells:
            if cell.impossible:
                skipped.append(Skipped(recipe=recipe.name, cell=cell.id, status="impossible", reason=cell.impossible))
            elif changed is not None and not changed.get((recipe.name, cell.id)):
                reason = f"no input changed since {since}"
                skipped.append(Skipped(recipe=recipe.name, cell=cell.id, status="unchanged", reason=reason))
            else:
                include.append(_entry(recipe, cell, runners))
    most = github().most_jobs
    if len(include) > most:
        raise UsageError(
            f"{len(include)} cells are more than the {most} jobs that a matrix of GitHub's may have",
            where=", ".join(dict.fromkeys(entry.recipe for entry in include)),
            hint="choose some with --cell axis=value or --changed-since FILE, or call the workflow once for each part",
        )
    return CiPlan(include=tuple(include), skipped=tuple(skipped))


def run_address(environment: Mapping[str, str]) -> str | None:
    """Return the page of the GitHub run whose variables these are, or None outside of one."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run = (environment.get(name, "") for name in names)
    address = f"{server}/{repository}/actions/runs/{run}"
    return address if re.fullmatch(r"https://[A-Za-z0-9.:-]+/[\w.-]+/[\w.-]+/actions/runs/[0-9]+", address) else None


def outputs(ci_plan: CiPlan) -> str:
    """Return the plan as lines for `$GITHUB_OUTPUT`: the matrix, and its number of cells."""
    matrix = json.dumps({"include": records.to_json(ci_plan.include)}, separators=(",", ":"))
    return f"matrix={matrix}\ncells={len(ci_plan.include)}"


def _entry(recipe: Recipe, cell: Cell, runners: Mapping[str, str]) -> MatrixEntry:
    runner, board = runners_of(recipe, cell)
    architecture = recipe.architecture
    return MatrixEntry(
        recipe=recipe.name,
        cell=cell.id,
        name=f"{recipe.name} {cell.id}",
        architecture=architecture,
        platform=f"linux/{architecture}",
        runner=runners.get(architecture) or runners.get("") or runner or github().usual_runner,
        smoke_runner=board or "",
    )


@cache
def github() -> GitHub:
    """Return GitHub's usual runner and limits.

    Raises:
        DocumentError: the table has mistakes.
    """
    return documents.load(DATA, "the table of runners has mistakes", _parse)


def _parse(root: Table) -> GitHub:
    root.expect(("most-jobs-source", "usual-runner-source"))
    return GitHub(
        most_jobs=root.integer("most-jobs", low=1),
        usual_runner=root.string("usual-runner", pattern=patterns.RUNNER, noun="a runner's label"),
    )

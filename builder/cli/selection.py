"""From names on the command line to the session, the recipe, its cells, and the jobs to make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import config
from builder.console import Console
from builder.errors import RecipeError, UsageError
from builder.recipe.find import find
from builder.recipe.load import load
from builder.recipe.matrix import expand
from builder.recipe.select import select
from builder.resolve.jobs import job_of
from builder.session import Session
from builder.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.recipe.model import Cell, Recipe
    from builder.resolve.model import Job


def open_session(*, as_json: bool = False) -> Session:
    """Return the session of this command in the current folder.

    Raises:
        DocumentError: a configuration file has mistakes.
    """
    workspace = Workspace.here()
    return Session(workspace=workspace, config=config.load(workspace.config_files), console=Console(as_json=as_json))


def open_recipe(name: str, selectors: Sequence[str], workspace: Workspace) -> tuple[Recipe, tuple[Cell, ...]]:
    """Return a recipe and its selected cells, impossible ones included.

    Raises:
        UsageError: there is no such recipe or cell.
        DocumentError: the recipe has mistakes.
    """
    recipe = load(find(name, workspace.recipe_folders), workspace.template_folders)
    return recipe, select(expand(recipe), selectors)


def possible_jobs(recipe: Recipe, cells: Sequence[Cell], session: Session | None = None) -> list[Job]:
    """Return the jobs of the cells that can be built; with a session, print why the others cannot.

    Raises:
        RecipeError: no cell can be built.
    """
    for cell in cells:
        if cell.impossible and session:
            session.console.say(f"{cell.id}: impossible: {cell.impossible}")
    jobs = [job_of(recipe, cell) for cell in cells if not cell.impossible]
    if not jobs:
        raise RecipeError(
            f"none of the selected cells of {recipe.name} can be built",
            where=str(recipe.path),
            hint=f"`jbuild matrix {recipe.name}` lists every cell, and why it cannot be built",
        )
    return jobs


def only_job(recipe: Recipe, cells: Sequence[Cell], *, purpose: str) -> Job:
    """Return the job of the only cell that can be built; `purpose` is the reason for one, for the message.

    Raises:
        RecipeError: no cell can be built.
        UsageError: several can.
    """
    jobs = possible_jobs(recipe, cells)
    if len(jobs) > 1:
        raise UsageError(
            f"{purpose}, and {len(jobs)} cells are selected",
            where=recipe.name,
            hint=f"name one with --cell; `jbuild pick {recipe.name}` names the one that this machine can run",
        )
    return jobs[0]

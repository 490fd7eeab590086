"""From names on the command line to a session, a recipe, its cells, and the jobs to make them."""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from builder.cli.variables import unknown_variables
from builder.cli.verb_options import cell_option, json_option, recipe_argument
from builder.errors import JbuildError, RecipeError, UsageError
from builder.host import config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.jetson.packages import families
from builder.recipe.find import find
from builder.recipe.load import load
from builder.recipe.matrix import expand, job_of, unused_boards
from builder.recipe.select import select

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.model.locks import Job
    from builder.model.recipes import Cell, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class CellSelection:
    """A recipe and its selected cells, impossible ones included, in the session of this command."""

    session: Session
    recipe: Recipe
    cells: tuple[Cell, ...]

    def possible_jobs(self) -> list[Job]:
        """Return the jobs of the cells that can be built; there may be none."""
        return [job_of(self.recipe, cell) for cell in self.cells if not cell.impossible]

    def jobs(self) -> list[Job]:
        """Return the jobs of the cells that can be built.

        Raises:
            RecipeError: no cell can be built.
        """
        jobs = self.possible_jobs()
        if not jobs:
            message = f"none of the selected cells of {self.recipe.name} can be built"
            hint = f"`jbuild matrix {self.recipe.name}` lists every cell, and why it cannot be built"
            raise RecipeError(message, where=str(self.recipe.path), hint=hint)
        return jobs

    def only_job(self, purpose: str) -> Job:
        """Return the job of the only cell that can be built; `purpose` says in the message why it must be one.

        Raises:
            RecipeError: no cell can be built.
            UsageError: several can.
        """
        jobs = self.jobs()
        if len(jobs) > 1:
            name = self.recipe.name
            hint = f"name one with --cell; `jbuild pick {name}` names the one that this machine can run"
            raise UsageError(f"{purpose}, and {len(jobs)} cells are selected", where=name, hint=hint)
        return jobs[0]

    def show_impossible(self) -> None:
        """Print why cells cannot be built."""
        for cell in self.cells:
            if cell.impossible:
                self.session.console.say(f"{cell.id}: impossible: {cell.impossible}")


def session_verb(
    name: str, *options: Callable[[Any], Any], group: click.Group | None = None, text: str | None = None
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Return a decorator that makes a verb of a function whose first parameter is the session.

    The verb has some arguments and options, and --json; its help is `text`, else the function's docstring.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        def verb(as_json: bool, **values: Any) -> int | None:
            return function(open_session(as_json=as_json), **values)

        for option in reversed((*options, json_option)):
            verb = option(verb)
        return (group or click).command(name, help=text or inspect.getdoc(function))(verb)

    return decorate


def recipe_verb(
    name: str, *options: Callable[[Any], Any], group: click.Group | None = None, text: str | None = None
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Return a decorator like that of `session_verb`; the verb has RECIPE and --cell too, and a selection first."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        def verb(session: Session, recipe: str, selectors: tuple[str, ...], **values: Any) -> int | None:
            selection = select_cells(recipe, selectors, session)
            try:
                return function(selection, **values)
            except JbuildError as error:
                raise naming(error, selection.recipe.name)  # noqa: B904  # the same error

        more = (recipe_argument, cell_option, *options)
        return session_verb(name, *more, group=group, text=text or inspect.getdoc(function))(verb)

    return decorate


def naming(error: JbuildError, recipe: str) -> JbuildError:
    """Return an error whose hint names a recipe in the commands that it proposes for any `RECIPE`."""
    if error.hint:
        error.hint = re.sub(r"(`jbuild [a-z ]+)RECIPE\b", rf"\g<1>{recipe}", error.hint)
    return error


def open_session(*, as_json: bool = False) -> Session:
    """Return the session of this command in the current folder.

    Raises:
        DocumentError: a configuration file has mistakes.
    """
    workspace, console = Workspace.current(), Console(as_json=as_json)
    settings = config.load(workspace.config_files, families())
    for warning in unknown_variables(os.environ):
        console.warn(warning)
    return Session(workspace=workspace, config=settings, console=console)


def select_cells(name: str, selectors: Sequence[str], session: Session) -> CellSelection:
    """Return a recipe and its selected cells.

    Raises:
        UsageError: there is no such recipe or cell.
        DocumentError: the recipe has mistakes.
    """
    recipe = load(find(name, session.workspace.recipe_folders), session.workspace.template_folders)
    cells = expand(recipe)
    for row in unused_boards(recipe, cells):
        session.console.warn(f"{recipe.path}: `boards`: no cell is for {row.name} (SM {row.sm})")
    return CellSelection(session=session, recipe=recipe, cells=select(cells, selectors))

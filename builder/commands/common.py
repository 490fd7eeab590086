"""What the verbs share: options, and the way from a recipe's name to its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder import config
from builder.commands import complete
from builder.console import Console
from builder.jetson.indexes import families
from builder.recipe.find import find
from builder.recipe.load import load
from builder.recipe.matrix import expand
from builder.recipe.select import select
from builder.session import Session
from builder.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.recipe.model import Cell, Recipe

_F = TypeVar("_F", bound="Callable[..., Any]")

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
recipe_argument = click.argument("recipe", shell_complete=complete.recipes)


def cell_option(function: _F) -> _F:
    """Add `--cell SELECTOR`, which may be given several times."""
    option = click.option(
        "--cell",
        "selectors",
        multiple=True,
        metavar="SELECTOR",
        shell_complete=complete.cells,
        help="Only these cells: an id or axis=value, with globs.",
    )
    return option(function)


def help_without_verb(context: click.Context) -> None:
    """Show the help of a group that was called without any of its verbs."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def open_session(*, as_json: bool = False) -> Session:
    """Return the session of this command in the current folder.

    Raises:
        DocumentError: a configuration file has mistakes.
    """
    workspace = Workspace.here()
    return Session(
        workspace=workspace, config=config.load(workspace.config_files, families()), console=Console(as_json=as_json)
    )


def open_recipe(name: str, selectors: Sequence[str], workspace: Workspace) -> tuple[Recipe, tuple[Cell, ...]]:
    """Return a recipe and its selected cells, impossible ones included.

    Raises:
        UsageError: there is no such recipe or cell.
        DocumentError: the recipe has mistakes.
    """
    recipe = load(find(name, workspace.recipe_folders), workspace.template_folders)
    return recipe, select(expand(recipe), selectors)

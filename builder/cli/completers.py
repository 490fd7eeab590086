"""Completion of recipes, cells and boards. Nothing here may fail or print: a user is typing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click.shell_completion import CompletionItem

from builder.errors import JbuildError
from builder.host.paths import Workspace
from builder.jetson.boards import boards as board_rows
from builder.recipe.find import recipe_paths
from builder.recipe.load import load
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

_MOST = 500


def recipes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the recipes whose names begin with a text."""
    try:
        names = recipe_paths(Workspace.current().recipe_folders)
    except (JbuildError, OSError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def cells(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the selectors, ids and `axis=value`, that begin with a text: of the recipes on the line, else of all."""
    argument = context.params.get("recipe") or context.params.get("recipes") or context.params.get("names")
    # click has not parsed the arguments of a line that ends with an option.
    names = (argument,) if isinstance(argument, str) else tuple(argument or context.args)
    selectors = dict.fromkeys(text for text in _selectors(names) if text.startswith(incomplete))
    return [CompletionItem(text) for text in list(selectors)[:_MOST]]


def boards(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the boards whose names begin with a text."""
    return [CompletionItem(row.name, help=row.module) for row in board_rows() if row.name.startswith(incomplete)]


def _selectors(names: tuple[str, ...]) -> Iterator[str]:

    try:
        paths = recipe_paths(Workspace.current().recipe_folders)
    except (JbuildError, OSError):
        return
    for path in [paths[name] for name in names if name in paths] if names else paths.values():
        try:
            recipe = load(path)
        except JbuildError:
            # The verb itself reports the mistake; other recipes have cells too.
            continue
        yield from (cell.id for cell in expand(recipe))
        yield from (f"{axis}={value}" for axis, values in recipe.matrix.all_values().items() for value in values)

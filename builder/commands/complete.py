"""What shells complete: names of recipes, cells and boards. Nothing here may fail or speak: somebody is typing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.errors import JbuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click
    from click.shell_completion import CompletionItem

_MOST = 500


def recipes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the recipes whose name begins so."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    from builder.recipe.find import recipe_paths  # noqa: PLC0415
    from builder.workspace import Workspace  # noqa: PLC0415

    try:
        found = recipe_paths(Workspace.here().recipe_folders)
    except (JbuildError, OSError):
        return []
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


def cells(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the selectors that begin so: ids and `axis=value`, of the recipes that the line names, else of all."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    given = context.params.get("recipe") or context.params.get("recipes") or context.params.get("names")
    # A line that ends with an option has not been parsed to its arguments.
    named = (given,) if isinstance(given, str) else tuple(given or context.args)
    found = dict.fromkeys(text for text in _selectors(named) if text.startswith(incomplete))
    return [CompletionItem(text) for text in list(found)[:_MOST]]


def boards(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the boards whose name begins so."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    from builder.jetson.boards import boards as known  # noqa: PLC0415

    return [CompletionItem(row.name, help=row.module) for row in known() if row.name.startswith(incomplete)]


def _selectors(named: tuple[str, ...]) -> Iterator[str]:
    from builder.recipe.find import recipe_paths  # noqa: PLC0415
    from builder.recipe.load import load  # noqa: PLC0415
    from builder.recipe.matrix import expand  # noqa: PLC0415
    from builder.workspace import Workspace  # noqa: PLC0415

    try:
        known = recipe_paths(Workspace.here().recipe_folders)
    except (JbuildError, OSError):
        return
    for path in [known[name] for name in named if name in known] if named else known.values():
        try:
            recipe = load(path)
        except JbuildError:
            # Whoever calls the verb is told; other recipes have cells too.
            continue
        yield from (cell.id for cell in expand(recipe))
        yield from (f"{axis}={value}" for axis, values in recipe.matrix.known().items() for value in values)

"""Options that several verbs share, each with one meaning and one help text, and the completion of their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from builder.errors import JbuildError
from builder.host.config import BUILDER_PATTERN, REGISTRY_PATTERN
from builder.host.paths import Workspace
from builder.host.registry_names import advice, bare, slashed
from builder.jetson.boards import boards, machines
from builder.recipe import value_checks
from builder.recipe.find import recipe_paths
from builder.recipe.levels import levels
from builder.recipe.load import load
from builder.recipe.matrix import expand
from builder.remote.registry.reference import DOCKER_HUB, has_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

F = TypeVar("F", bound="Callable[..., Any]")
FILE = click.Path(path_type=Path, dir_okay=False)
_MOST = 500


# Nothing in the completion may fail or print: a user is typing.
def complete_recipes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the recipes whose names begin with a text."""
    return [CompletionItem(name) for name in _recipes() if name.startswith(incomplete)]


def complete_cells(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the selectors, ids and `axis=value`, that begin with a text: of the recipes on the line, else of all."""
    argument = context.params.get("recipe") or context.params.get("recipes") or context.params.get("names")
    # click has not parsed the arguments of a line that ends with an option.
    names = (argument,) if isinstance(argument, str) else tuple(argument or context.args)
    selectors = dict.fromkeys(text for text in _selectors(names) if text.startswith(incomplete))
    return [CompletionItem(text) for text in list(selectors)[:_MOST]]


def complete_boards(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Return the boards whose names begin with a text."""
    return [
        CompletionItem(row.name, help=row.module) for row in (*boards(), *machines()) if row.name.startswith(incomplete)
    ]


def _recipes() -> Mapping[str, Path]:
    try:
        return recipe_paths(Workspace.current().recipe_folders)
    except (JbuildError, OSError):
        return {}


def _selectors(names: tuple[str, ...]) -> Iterator[str]:
    paths = _recipes()
    for path in [paths[name] for name in names if name in paths] if names else paths.values():
        try:
            recipe = load(path)
        except JbuildError:
            # The verb itself reports the mistake; other recipes have cells too.
            continue
        yield from (cell.id for cell in expand(recipe))
        yield from (f"{axis}={value}" for axis, values in recipe.matrix.all_values().items() for value in values)


def _names(pattern: str, noun: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that refuses names, one or several, that are not such a noun."""

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        for name in value if isinstance(value, tuple) else filter(None, [value]):
            if not re.fullmatch(pattern, name):
                raise click.BadParameter(f"{name!r} is not {noun}", context, parameter)
        return value

    return check


def registry_names(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Return the names of registries, one or several, without slashes at their ends; refuse other words."""
    for name in value if isinstance(value, tuple) else filter(None, [value]):
        if not re.fullmatch(slashed(REGISTRY_PATTERN), name):
            proposal = advice(name, REGISTRY_PATTERN)
            message = f"{name!r} is not a registry such as host:5000/team"
            raise click.BadParameter(f"{message}: {proposal}" if proposal else message, context, parameter)
        if not has_host(name):
            # Docker takes such a name for one of Docker Hub: a forgotten host must not publish an image there.
            message = f"{name!r} has no host: name HOST/{name}, or {DOCKER_HUB}/{name} for Docker Hub"
            raise click.BadParameter(message, context, parameter)
    return tuple(map(bare, value)) if isinstance(value, tuple) else value and bare(value)


def _registries(text: str) -> Callable[[F], F]:
    return click.option(
        "--registry", "registries", multiple=True, metavar="HOST/PREFIX", callback=registry_names, help=text
    )


def output_option(text: str) -> Callable[[F], F]:
    """Return the option of a file to write, with this help."""
    return click.option("--output", type=FILE, help=text)


def level_option(text: str) -> Callable[[F], F]:
    """Return the option of a level of verdicts, with this help."""
    return click.option("--level", type=click.Choice(levels()), help=text)


def key_option(text: str) -> Callable[[F], F]:
    """Return the option of public keys, with this help."""
    return click.option("--key", "keys", multiple=True, type=click.Path(path_type=Path), help=text)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
recipe_argument = click.argument("recipe", shell_complete=complete_recipes)
cell_option = click.option(
    "--cell",
    "selectors",
    multiple=True,
    metavar="SELECTOR",
    shell_complete=complete_cells,
    help="Select cells by id or axis=value, with globs. Can be repeated.",
)
push_registry_option = _registries("Push to this registry instead of the configured ones. Can be repeated.")
lookup_registry_option = _registries("Look in this registry instead of the configured ones. Can be repeated.")
load_registry_option = _registries("Push to this registry instead. Can be repeated.")
unsigned_option = click.option("--unsigned-verdict", "unsigned", is_flag=True, help="Accept unsigned verdicts.")
tag_option = click.option(
    "--tag",
    "tags",
    multiple=True,
    callback=_names(value_checks.tag.pattern, value_checks.tag.noun),
    help="Set this tag instead of the recipe's. Can be repeated.",
)
repository_option = click.option(
    "--repository",
    callback=_names(value_checks.repository.pattern, value_checks.repository.noun),
    help="Repository below HOST/PREFIX. Default: the image's own.",
)
force_tags_option = click.option(
    "--force-tags", is_flag=True, help="Set tags even if they are immutable or point to a newer image."
)
builder_option = click.option(
    "--builder",
    "builders",
    multiple=True,
    metavar="NAME",
    callback=_names(BUILDER_PATTERN, "the name of a builder"),
    help="Build with this buildx builder or docker context. Repeat it to build cells on several.",
)
runner_option = click.option(
    "--runner",
    metavar="BUILDER",
    callback=_names(BUILDER_PATTERN, "the name of a builder"),
    help="Compile on this buildx builder or docker context instead of this machine.",
)
board_option = click.option(
    "--board",
    metavar="NAME",
    shell_complete=complete_boards,
    help="Board to run on. Default: this machine's, or the only board of the recipe.",
)
image_option = click.option("--image", metavar="REFERENCE", help="Run this image instead of the cell's own.")


def verb_group(name: str, text: str) -> click.Group:
    """Return a verb that has verbs of its own, and shows its help without one."""

    @click.group(name, help=text, epilog="Every command has --json.", invoke_without_command=True)
    @click.pass_context
    def group(context: click.Context) -> None:
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    return group


RUN_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--force", is_flag=True, help="Run even if nothing has changed."),
    click.option("--locked", is_flag=True, help="Fail if a lock is missing or stale, instead of updating it."),
    click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Cells to run in parallel."),
)


def refuse_options(names: tuple[str, ...], reason: str) -> None:
    """Refuse options of the current command that have no effect here.

    Raises:
        click.UsageError: one of the parameters (by their Python names) was given.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} {reason}", context)

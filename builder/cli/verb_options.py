"""Options that several verbs share, each with one meaning and one help text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from builder.cli import completers
from builder.host.config import BUILDER_PATTERN, REGISTRY_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.device.service_records import Published

F = TypeVar("F", bound="Callable[..., Any]")


def registry_names(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Return the value of an option, one or several, if each is the name of a registry."""
    for name in value if isinstance(value, tuple) else filter(None, [value]):
        if not re.fullmatch(REGISTRY_PATTERN, name):
            raise click.BadParameter(f"{name!r} is not a registry such as host:5000/team", context, parameter)
    return value


def _builder_names(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(BUILDER_PATTERN, name):
            raise click.BadParameter(f"{name!r} is not the name of a builder", context, parameter)
    return names


def _published(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Published | None:
    from builder.device.service_records import parse_published  # noqa: PLC0415  # only servers need it

    return parse_published(value) if value else None


def _registries(text: str) -> Callable[[F], F]:
    return click.option(
        "--registry", "registries", multiple=True, metavar="HOST/PREFIX", callback=registry_names, help=text
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
recipe_argument = click.argument("recipe", shell_complete=completers.recipes)
cell_option = click.option(
    "--cell",
    "selectors",
    multiple=True,
    metavar="SELECTOR",
    shell_complete=completers.cells,
    help="Select cells by id or axis=value, with globs. Can be repeated.",
)
push_registry_option = _registries("Push to this registry instead of the configured ones. Can be repeated.")
lookup_registry_option = _registries("Look in this registry instead of the configured ones. Can be repeated.")
force_tags_option = click.option(
    "--force-tags", is_flag=True, help="Move tags even if they are immutable or on a newer image."
)
builder_option = click.option(
    "--builder",
    "builders",
    multiple=True,
    metavar="NAME",
    callback=_builder_names,
    help="Build with this buildx builder or docker context. Repeat it to build cells on several.",
)
board_option = click.option(
    "--board",
    metavar="NAME",
    shell_complete=completers.boards,
    help="Board to run on. Default: this machine's, or the only board of the recipe.",
)
image_option = click.option("--image", metavar="REFERENCE", help="Run this image instead of the cell's own.")
publish_option = click.option(
    "--publish",
    "published",
    metavar="[ADDRESS:]PORT",
    callback=_published,
    help="Address and port of the server. Default: the recipe's port on loopback.",
)


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
    click.option("--locked", is_flag=True, help="Fail if a lock is missing or out of date instead of updating it."),
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

"""`jbuild system`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.cli.verb_options import builder_option, registry_names
from builder.errors import UsageError
from builder.host.paths import check_cache
from builder.pipeline.order import RunOptions
from builder.publish.stage import targets
from builder.publish.system_layer import make_systems


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedCell:
    """The system layer of a cell; `made`: this run built it."""

    cell: str
    image: str
    digest: str
    made: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemResult:
    """Pinned system layers, and the file that pins them."""

    recipe: str
    pins: str
    cells: tuple[PinnedCell, ...]


@recipe_verb(
    "system",
    click.option("--force", is_flag=True, help="Rebuild pinned layers with the newest packages of the mirror."),
    click.option(
        "--registry",
        metavar="HOST/PREFIX",
        callback=registry_names,
        help="Push to this registry. Default: the first one configured.",
    ),
    builder_option,
)
def command(selection: CellSelection, force: bool, registry: str | None, builders: tuple[str, ...]) -> None:
    """Build the system layers of RECIPE's cells, push them, and pin them by digest for all later builds.

    locks/systems.toml holds the pins: every build with that file uses the same system packages.
    """
    session, recipe, jobs = selection.session, selection.recipe, selection.jobs()
    check_cache(session.workspace)
    registries = targets(recipe.spec.publish, (registry,) if registry else (), session.config)
    if not registries:
        hint = "name one with --registry HOST/PREFIX, or `registries` under [publish] in the recipe or jbuild.toml"
        raise UsageError("no registry to push the layers to", where=str(recipe.path), hint=hint)
    options = RunOptions(until="lock", builders=builders)
    pinned = [
        PinnedCell(cell=cell.cell, image=cell.layer.image, digest=cell.layer.digest, made=cell.made)
        for cell in make_systems(jobs, session, options, registries[0], force=force)
    ]
    lines = [f"{cell.cell}: {'pinned' if cell.made else 'unchanged'}: {cell.image}@{cell.digest}" for cell in pinned]
    result = SystemResult(recipe=recipe.name, pins=str(session.workspace.systems), cells=tuple(pinned))
    show(result, "\n".join(lines), session.console)

"""`jbuild pick`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder import records
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.commands.serving import possible_cells
from builder.commands.working import registry_option
from builder.errors import RegistryError
from builder.publish.where import required_targets
from builder.recipe.levels import levels
from builder.resolve.jobs import job_of
from builder.serve.pick import host_of, pick

if TYPE_CHECKING:
    from builder.serve.pick import Candidate


@click.command("pick")
@recipe_argument
@cell_option
@click.option("--board", metavar="NAME", help="Pick for this board instead of this machine.")
@click.option("--l4t", metavar="RELEASE", help="The L4T release that runs on it. Default: this machine's.")
@click.option("--level", type=click.Choice(levels()), help="What an image's verdict must reach.")
@registry_option
@as_json
def command(
    recipe: str,
    selectors: tuple[str, ...],
    board: str | None,
    l4t: str | None,
    level: str | None,
    registries: tuple[str, ...],
    as_json: bool,
) -> int:
    """Name the published image of RECIPE that this machine can run, the best first, and why others are out.

    Ends with 11 where there is none.
    """
    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    jobs = [job_of(found, cell) for cell in possible_cells(found, cells)]
    targets = required_targets(found.spec.publish, registries, session.config, where=str(found.path))
    host = host_of(board, l4t)
    rows = pick(jobs, host, targets, session, level=level)
    best = rows[0] if not rows[0].out else None
    shown = {
        "recipe": found.name,
        "host": records.plain(host),
        "image": best.image if best else None,
        "candidates": records.plain(rows),
    }
    told = [f"{best.image if best else 'no image'} for {host.name}", *(line for row in rows for line in _lines(row))]
    if not best and not board:
        told.append("`--board NAME` picks for a board instead of this machine")
    session.console.result(shown, "\n".join(told))
    return 0 if best else RegistryError.exit_code


def _lines(row: Candidate) -> list[str]:
    head = "runs" if not row.out else "out "
    tag = f" {row.tag}" if row.tag else ""
    lines = [f"  {head}  {row.cell}{tag}{f', level {row.level}' if row.level else ''}"]
    return lines + [f"          {said}" for said in (*row.out, *row.notes)]

"""`jbuild pick`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from builder.cli import completers
from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.cli.verb_options import lookup_registry_option
from builder.device.image_choice import ImageCandidate, host_of, pick
from builder.errors import RegistryError
from builder.jetson.device import TargetHost
from builder.publish.stage import required_targets
from builder.recipe.levels import levels


@dataclass(frozen=True, kw_only=True, slots=True)
class PickResult:
    """The image for a host, and every candidate, the best first; `image` is None if no candidate runs there."""

    recipe: str
    host: TargetHost
    image: str | None
    candidates: tuple[ImageCandidate, ...]


@recipe_verb(
    "pick",
    click.option(
        "--board", metavar="NAME", shell_complete=completers.boards, help="Pick for this board. Default: this machine."
    ),
    click.option("--l4t", metavar="RELEASE", help="L4T release of the board. Default: this machine's."),
    click.option("--level", type=click.Choice(levels()), help="Level that the verdict of the image must reach."),
    lookup_registry_option,
)
def command(
    selection: CellSelection, board: str | None, l4t: str | None, level: str | None, registries: tuple[str, ...]
) -> int:
    """Find the published image of RECIPE that this machine can run, and show why it cannot run the others.

    Ends with exit code 11 if there is none.
    """
    session, recipe, host = selection.session, selection.recipe, host_of(board, l4t)
    targets = required_targets(recipe.spec.publish, registries, session.config, location=str(recipe.path))
    rows = pick(selection.jobs(), host, targets, session, level=level)
    best = rows[0] if not rows[0].out else None
    image = best.image if best else None
    lines = [f"{image if best else 'no image'} for {host.name}", *(line for row in rows for line in _lines(row))]
    if not best and not board:
        lines.append("`--board NAME` picks for a board instead of this machine")
    result = PickResult(recipe=recipe.name, host=host, image=image, candidates=tuple(rows))
    show(result, "\n".join(lines), session.console)
    return 0 if best else RegistryError.exit_code


def _lines(row: ImageCandidate) -> list[str]:
    head = "runs" if not row.out else "out "
    tag = f" {row.tag}" if row.tag else ""
    lines = [f"  {head}  {row.cell}{tag}{f', level {row.level}' if row.level else ''}"]
    return lines + [f"          {reason}" for reason in (*row.out, *row.notes)]

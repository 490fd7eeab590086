"""`jbuild verdict`."""

from __future__ import annotations

from pathlib import Path

import click

from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.errors import UsageError
from builder.publish.handover import write_verdict
from builder.resolve.jobs import job_of


@click.command("verdict")
@recipe_argument
@cell_option
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@as_json
def command(recipe: str, selectors: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Write the verdict of RECIPE's image to a file, signed if `cosign-key` is configured.

    `jbuild promote --verdict FILE` takes it where the tags are put.
    """
    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    possible = [cell for cell in cells if not cell.impossible]
    if len(possible) != 1:
        raise UsageError(
            f"a verdict is about one image, and {len(possible)} cells are selected",
            where=found.name,
            hint=f"name one with --cell: `jbuild matrix {found.name}` lists them",
        )
    verdict = write_verdict(job_of(found, possible[0]), session, output)
    shown = {"file": str(output), "digest": verdict.digest, "level": verdict.level, "when": verdict.when}
    session.console.result(shown, f"{output}: level {verdict.level}, {verdict.digest}")

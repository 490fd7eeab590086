"""`jbuild verdict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from builder.cli.options import cell_option, json_option, recipe_argument
from builder.cli.results import show
from builder.cli.selection import only_job, open_recipe, open_session
from builder.publish.handover import write_verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictResult:
    """A verdict that was written to a file."""

    file: str
    digest: str
    level: str
    when: str


@click.command("verdict")
@recipe_argument
@cell_option
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@json_option
def command(recipe: str, selectors: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Export the smoke verdict of RECIPE's image to a file, signed if `cosign-key` is configured.

    `jbuild promote --verdict FILE` reads it on another machine.
    """
    session = open_session(as_json=as_json)
    loaded, cells = open_recipe(recipe, selectors, session.workspace)
    verdict = write_verdict(only_job(loaded, cells, purpose="a verdict is about one image"), session, output)
    result = VerdictResult(file=str(output), digest=verdict.digest, level=verdict.level, when=verdict.when)
    show(result, f"{output}: level {verdict.level}, {verdict.digest}", session.console)

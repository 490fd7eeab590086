"""`jbuild verdict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.publish.trust import write_verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictResult:
    """A verdict that was written to a file."""

    file: str
    digest: str
    level: str
    when: str


@recipe_verb(
    "verdict",
    click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write."),
)
def command(selection: CellSelection, output: Path) -> None:
    """Export the smoke verdict of RECIPE's image to a file, signed if `cosign-key` is configured.

    `jbuild promote --verdict FILE` reads it on another machine.
    """
    verdict = write_verdict(selection.only_job("a verdict is about one image"), selection.session, output)
    result = VerdictResult(file=str(output), digest=verdict.digest, level=verdict.level, when=verdict.when)
    show(result, f"{output}: level {verdict.level}, {verdict.digest}", selection.session.console)

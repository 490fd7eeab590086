"""`jbuild diff`."""

from __future__ import annotations

import click

from builder import records
from builder.commands import complete
from builder.commands.common import as_json, open_session
from builder.diff.compare import compare
from builder.diff.subject import subject
from builder.report.diff import text


@click.command("diff")
@click.argument("before", metavar="A", shell_complete=complete.recipes)
@click.argument("after", metavar="B", shell_complete=complete.recipes)
@click.option(
    "--architecture",
    type=click.Choice(("arm64", "amd64")),
    default="arm64",
    show_default=True,
    help="Of images for several, compare these.",
)
@as_json
def command(before: str, after: str, architecture: str, as_json: bool) -> None:
    """Show what changed from A to B: packages, models, layers, and the bytes that a device with A pulls for B.

    A and B are lock files, cells (RECIPE/CELL, or RECIPE if it has one cell), digests of built images, or images in a
    registry (HOST/NAME:TAG). No engine is needed.
    """
    session = open_session(as_json=as_json)
    with session.console.task(f"comparing {before} with {after}", unit="images"):
        found = compare(subject(before, session, architecture), subject(after, session, architecture))
    session.console.result({**records.plain(found), "identical": found.identical}, text(found))

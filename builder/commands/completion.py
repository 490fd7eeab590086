"""`jbuild completion`."""

from __future__ import annotations

import click

from builder.commands.common import as_json
from builder.console import Console
from builder.shells import SHELLS, script


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@as_json
def command(shell: str, as_json: bool) -> None:
    """Print what SHELL needs to complete verbs, options, recipes and cells, and how to install it."""
    text = script(click.get_current_context().find_root().command, shell)
    Console(as_json=as_json).result({"shell": shell, "script": text}, text)

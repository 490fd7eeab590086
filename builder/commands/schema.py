"""`jbuild schema`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from builder.commands.common import as_json
from builder.console import Console

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _verbs(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    return context.find_root().command.shell_complete(context, incomplete)


@click.command("schema")
@click.argument("verb", shell_complete=_verbs)
@as_json
def command(verb: str, as_json: bool) -> None:
    """Print the JSON Schema of what VERB prints with --json; VERB `error` is what all print where they fail."""
    from builder.schema.results import schema_for  # noqa: PLC0415  # the records of all rooms

    schema = schema_for(verb)
    Console(as_json=as_json).result(schema, json.dumps(schema, indent=2))

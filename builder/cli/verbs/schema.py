"""`jbuild schema`."""

from __future__ import annotations

import json
from typing import Any

import click
from click.shell_completion import CompletionItem

from builder.cli.results import result_schema
from builder.cli.verb_options import json_option
from builder.host.config import config_schema
from builder.host.console import Console
from builder.recipe.load import recipe_schema

SchemaResult = dict[str, Any]
# Files that users write; other names are verbs, whose results the schemas describe.
INPUTS = {"recipe": recipe_schema, "config": config_schema}


def _names(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    inputs = [CompletionItem(name) for name in INPUTS if name.startswith(incomplete)]
    verbs = context.find_root().command.shell_complete(context, incomplete)
    return inputs + [item for item in verbs if item.value not in INPUTS]


@click.command("schema")
@click.argument("name", metavar="recipe | config | VERB | error", shell_complete=_names)
@click.option("--result", is_flag=True, help="Print the schema of a verb's result where a file has the same name.")
@json_option
def command(name: str, result: bool, as_json: bool) -> None:
    """Print a JSON Schema.

    `recipe` and `config` are the schemas of recipe files and jbuild.toml, for editors. With the name of a verb, print
    the schema of its --json output; with `error`, the schema of that output when a verb fails. `--result recipe` is the
    output of the verb `recipe`.
    """
    schema = INPUTS[name]() if name in INPUTS and not result else result_schema(name)
    Console(as_json=as_json).result(schema, json.dumps(schema, indent=2))

"""`jbuild completion` (click's completion scripts, with a bash that splits words at `=`) and `jbuild schema`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from builder.cli.results import VerbFailure, show
from builder.cli.verb_options import json_option
from builder.cli.verb_table import verbs
from builder.errors import UsageError
from builder.host.config import config_schema
from builder.host.console import Console
from builder.host.records import DIALECT, schema_of
from builder.host.wording import printable, suggest
from builder.recipe.load import recipe_schema

_VARIABLE = "_JBUILD_COMPLETE"
_PROGRAM = "jbuild"
_INSTALL = {
    "bash": ('eval "$(jbuild completion bash)"', "~/.bashrc"),
    "zsh": ('eval "$(jbuild completion zsh)"', "~/.zshrc, after compinit"),
    "fish": ("jbuild completion fish | source", "~/.config/fish/config.fish"),
}

SchemaResult = dict[str, Any]
# Files that users write; other names are verbs, whose results the schemas describe.
INPUTS = {"recipe": recipe_schema, "config": config_schema}


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionResult:
    """A script that makes a shell complete the command line."""

    shell: str
    script: str


class _Bash(BashComplete):
    """Bash splits words at `=`: `--cell vllm=0.9` comes as three words, and bash replaces the last only."""

    _prefix = ""

    @staticmethod
    def _check_version() -> None:
        """Accept any bash: 4.4 is from 2016, and jbuild's own scripts need it too."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the incomplete one, and the incomplete one, both joined at `=`."""
        current = int(os.environ["COMP_CWORD"])
        words: list[str] = []
        for word in os.environ["COMP_WORDS"].split("\n")[: current + 1]:
            if words and (word == "=" or words[-1].endswith("=")):
                words[-1] += word
            else:
                words.append(word)
        *before, incomplete = words[1:] if len(words) > 1 else [""]
        self._prefix = incomplete[: incomplete.rfind("=") + 1]
        return before, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return a completion without the text before the word that bash replaces."""
        # In `--option=value` only the value is completed.
        prefix = self._prefix.partition("=")[2] if self._prefix.startswith("-") else self._prefix
        return f"{item.type},{str(item.value).removeprefix(prefix)}"


def install_bash() -> None:
    """Let click complete in bash with our class."""
    add_completion_class(_Bash, "bash")


@click.command("completion")
@click.argument("shell", type=click.Choice(tuple(_INSTALL)))
@json_option
def print_completion(shell: str, as_json: bool) -> None:
    """Print the script that completes verbs, options, recipes and cells in SHELL, and how to install it."""
    install_bash()
    completion = get_completion_class(shell)
    assert completion  # noqa: S101  # click has all of them
    command_text, file = _INSTALL[shell]
    source = completion(click.get_current_context().find_root().command, {}, _PROGRAM, _VARIABLE).source().strip("\n")
    script = f"{source}\n\n# To complete in every session, add this line to {file}:\n#   {command_text}"
    show(CompletionResult(shell=shell, script=script), script, Console(as_json=as_json))


def result_schema(name: str, *, closed: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of a verb's result, or of `error`. A `closed` one allows no other keys.

    Raises:
        UsageError: there is no such verb.
    """
    kinds = {verb.name: verb for verb in verbs()}
    if name != "error" and name not in kinds:
        hint = suggest(name, (*kinds, "error"), noun="results")
        raise UsageError(f"there is no command `{printable(name)}`", hint=hint)
    kind = VerbFailure if name == "error" else getattr(kinds[name].load(), kinds[name].result)
    return {"$schema": DIALECT, **schema_of(kind, closed=closed), "title": f"jbuild {name} --json"}


def _names(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    inputs = [CompletionItem(name) for name in INPUTS if name.startswith(incomplete)]
    names = context.find_root().command.shell_complete(context, incomplete)
    return inputs + [item for item in names if item.value not in INPUTS]


@click.command("schema")
@click.argument("name", metavar="recipe | config | COMMAND | error", shell_complete=_names)
@click.option("--result", is_flag=True, help="Print the schema of a command's result where a file has the same name.")
@json_option
def print_schema(name: str, result: bool, as_json: bool) -> None:
    """Print a JSON Schema.

    `recipe` and `config` are the schemas of recipe files and jbuild.toml, for editors. With the name of a command,
    print the schema of its --json output; with `error`, the schema of that output when a command fails. `--result
    recipe` is the output of the command `recipe`.
    """
    schema = INPUTS[name]() if name in INPUTS and not result else result_schema(name)
    Console(as_json=as_json).result(schema, json.dumps(schema, indent=2))

"""`jbuild init`."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.commands import complete
from builder.commands.common import as_json
from builder.config import REGISTRY_PATTERN
from builder.console import Console
from builder.errors import UsageError
from builder.init.model import Answers
from builder.init.proposals import board_choices, l4t_choices, propose
from builder.init.remarks import remarks
from builder.init.write import write
from builder.workspace import Workspace

if TYPE_CHECKING:
    from builder.init.proposals import Proposal


def _registry(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value and not re.fullmatch(REGISTRY_PATTERN, value):
        raise click.BadParameter(f"{value!r} is not a registry such as host:5000/team", context, parameter)
    return value


@click.command("init")
@click.argument("name", required=False)
@click.option(
    "--board",
    shell_complete=complete.boards,
    help="What the images run on: a Jetson module such as orin-nx-16, or `none` for any CPU.",
)
@click.option("--l4t", metavar="RELEASE", help="The board's L4T release; default the newest that a recipe is for.")
@click.option("--vllm", metavar="VERSION", help="Default that of the recipe that is most like it.")
@click.option("--cuda", metavar="X.Y", help="Default that of the recipe that is most like it, else the platform's.")
@click.option("--python", metavar="X.Y", help="Default that of the recipe that is most like it, else the platform's.")
@click.option("--model", metavar="SOURCE", help="hf://ORGANISATION/NAME@REVISION, oci://HOST/NAME:TAG or a folder.")
@click.option("--registry", metavar="HOST/PREFIX", callback=_registry, help="Where proven images go.")
@as_json
def command(name: str | None, board: str | None, as_json: bool, **given: str | None) -> None:
    """Write a commented recipe to recipes/NAME.toml, after the pattern of the one that is most like it.

    On a terminal what is not said is asked.
    """
    console, workspace = Console(as_json=as_json), Workspace.here()
    asks = console.can_ask() and not as_json
    if board is None:
        board = _ask_board(console) if asks else None
    if board is None:
        known = ", ".join(board_choices())
        raise UsageError("what is the recipe for?", hint=f"name a board with --board: {known}")
    if given["model"]:
        given["model"] = _from_recipes(given["model"], workspace)
    answers = Answers(board=board, name=name, **given)
    if asks:
        answers = _ask_rest(answers, console, workspace)
    proposal = propose(answers, workspace.recipe_folders)
    path = write(proposal, workspace.project / "recipes")
    made = path.stem
    like = proposal.like.name if proposal.like else None
    shown = {"recipe": made, "path": str(path), "like": like, "axes": {**dict(proposal.axes), "vllm": _vllm(proposal)}}
    for remark in remarks(path):
        console.warn(remark)
    after = f"\nafter the pattern of {like}" if like else ""
    console.result(shown, f"{path}{after}\nnext: `jbuild show {made}`, then `jbuild recipe {made}`")


def _from_recipes(source: str, workspace: Workspace) -> str:
    """Return a folder as a recipe names it: what a shell completes is relative to the current folder."""
    here, recipes = Path(source), workspace.project / "recipes"
    if "://" in source or here.is_absolute() or (recipes / here).is_dir() or not here.is_dir():
        return source
    return os.path.relpath(here, recipes)


def _vllm(proposal: Proposal) -> str:
    return proposal.answers.vllm or ""


def _ask_board(console: Console) -> str:
    choices = board_choices()
    width = max(map(len, choices))
    for name, about in choices.items():
        console.note(f"  {name.ljust(width)}  {about}")
    return console.ask("Board", tuple(choices))


def _ask_rest(answers: Answers, console: Console, workspace: Workspace) -> Answers:
    """Ask for what was not said, and propose what would be taken."""
    if answers.l4t is None and answers.board in board_choices() and (releases := _releases(answers.board)):
        newest = propose(replace(answers, vllm=answers.vllm or "0"), workspace.recipe_folders).answers.l4t
        answers = replace(answers, l4t=console.ask("L4T release", releases, default=newest))
    if answers.vllm is None:
        answers = replace(answers, vllm=console.ask("vLLM", default=_proposed_vllm(answers, workspace)))
    usual = propose(answers, workspace.recipe_folders).answers
    if answers.model is None:
        answers = replace(answers, model=console.ask("Model", default=usual.model))
    if answers.registry is None:
        answers = replace(answers, registry=console.ask("Registry (empty: that of jbuild.toml)", default="") or None)
    return answers if answers.name else replace(answers, name=console.ask("Name", default=usual.name))


def _releases(board: str) -> tuple[str, ...]:
    return l4t_choices(board) if board != "none" else ()


def _proposed_vllm(answers: Answers, workspace: Workspace) -> str | None:
    try:
        return propose(answers, workspace.recipe_folders).answers.vllm
    except UsageError:
        # No recipe is for such a machine: there is nothing to propose.
        return None

"""`jbuild init`."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import click

from builder.cli.results import show
from builder.cli.verb_options import complete_boards, json_option, registry_names
from builder.errors import UsageError
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.project.init.proposals import NO_BOARD, Answers, board_choices, l4t_choices, propose
from builder.project.init.write import remarks, write


@dataclass(frozen=True, kw_only=True, slots=True)
class InitResult:
    """A new recipe, and the recipe that it follows."""

    recipe: str
    path: str
    like: str | None
    axes: dict[str, str]


@click.command("init")
@click.argument("name", required=False)
@click.option(
    "--board",
    shell_complete=complete_boards,
    help="Board to build for: a Jetson module such as orin-nx-16, or `none` for any CPU.",
)
@click.option(
    "--l4t", metavar="RELEASE", help="L4T release of the board. Default: the newest one that a recipe supports."
)
@click.option("--vllm", metavar="VERSION", help="vLLM version. Default: that of the most similar recipe.")
@click.option(
    "--cuda", metavar="X.Y", help="CUDA version. Default: that of the most similar recipe, or the platform's."
)
@click.option(
    "--python", metavar="X.Y", help="Python version. Default: that of the most similar recipe, or the platform's."
)
@click.option(
    "--model", metavar="SOURCE", help="Model: hf://ORGANISATION/NAME@REVISION, oci://HOST/NAME:TAG or a folder."
)
@click.option("--registry", metavar="HOST/PREFIX", callback=registry_names, help="Registry to push images to.")
@json_option
def command(name: str | None, board: str | None, as_json: bool, **values: str | None) -> None:
    """Write a commented recipe to recipes/NAME.toml, modelled on the most similar recipe.

    On a terminal, jbuild asks for missing options.
    """
    console, workspace = Console(as_json=as_json), Workspace.current()
    asks = console.can_ask() and not as_json
    if board is None and asks:
        board = _ask_board(console)
    if board is None:
        raise UsageError("no board is given", hint=f"name one with --board: {', '.join(board_choices())}")
    answers = Answers(board=board, name=name, **values)
    if asks:
        answers = _ask_rest(answers, console, workspace)
    if answers.model:
        answers = replace(answers, model=_from_recipes(answers.model, workspace))
    proposal = propose(answers, workspace.recipe_folders)
    path = write(proposal, workspace.project / "recipes")
    name, like = path.stem, proposal.like.name if proposal.like else None
    axes = {**dict(proposal.axes), "vllm": proposal.answers.vllm or ""}
    for remark in remarks(path):
        console.warn(remark)
    model = f"\nmodelled on {like}" if like else ""
    result = InitResult(recipe=name, path=str(path), like=like, axes=axes)
    show(result, f"{path}{model}\nnext: `jbuild show {name}`, then `jbuild recipe {name}`", console)


def _from_recipes(source: str, workspace: Workspace) -> str:
    """Return a folder relative to recipes/: a shell completes it relative to the current folder."""
    folder, recipes = Path(source), workspace.project / "recipes"
    if "://" in source or folder.is_absolute():
        return source
    # A folder that cannot be looked at is remarked once the recipe is there.
    with suppress(OSError):
        if folder.is_dir() and not (recipes / folder).is_dir():
            return os.path.relpath(folder, recipes)
    return source


def _ask_board(console: Console) -> str:
    choices = board_choices()
    width = max(map(len, choices))
    for name, about in choices.items():
        console.note(f"  {name.ljust(width)}  {about}")
    return console.ask("Board", tuple(choices))


def _ask_rest(answers: Answers, console: Console, workspace: Workspace) -> Answers:
    """Ask for the values that no option gave, and propose the defaults."""
    boards = [name for name in board_choices() if name != NO_BOARD]
    if answers.l4t is None and answers.board in boards and (releases := l4t_choices(answers.board)):
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


def _proposed_vllm(answers: Answers, workspace: Workspace) -> str | None:
    try:
        return propose(answers, workspace.recipe_folders).answers.vllm
    except UsageError:
        # No recipe supports such a machine: there is nothing to propose.
        return None

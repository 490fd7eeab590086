"""`jbuild compose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import records
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.commands.serving import board_option, image_option, only_job, publish_option
from builder.commands.working import registry_option
from builder.image.runtime import served_name
from builder.serve.compose import Heading, compose_file
from builder.serve.images import image_of
from builder.serve.memory import memory_of
from builder.serve.service import chosen_board, curl_hint, new_key, service_of
from builder.workspace import secret_beside, write_secret, write_text

if TYPE_CHECKING:
    from builder.jetson.boards import Board
    from builder.serve.memory import Memory
    from builder.serve.model import Published

_FILE = "compose.yaml"
_KEY = "vllm-api-key"
_SAVE = f"Save it as {_FILE} to use it as below, or let jbuild write file and key: --output {_FILE}."
_MAKE_KEY = f"Its API key is yours to make: mkdir -m 700 secrets && openssl rand -hex 24 >secrets/{_KEY}"


@click.command("compose")
@recipe_argument
@cell_option
@board_option
@image_option
@publish_option
@registry_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write, with a new API key beside it. Default: standard output.",
)
@as_json
def command(
    recipe: str,
    selectors: tuple[str, ...],
    board: str | None,
    image: str | None,
    published: Published | None,
    registries: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Write a compose file that runs the image of a cell of RECIPE, hardened, within what a board has.

    The image is named by digest where it is published. The API key is a file of its own, kept where it exists.
    """
    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    job = only_job(found, cells)
    chosen, row = image_of(job, session, image, registries), chosen_board(job, board)
    target = output or Path(_FILE)
    key = secret_beside(target, _KEY)
    memory = memory_of(job, row, session) if row else None
    service = service_of(
        job,
        chosen.reference,
        row,
        published=published,
        key_file=key.relative_to(target.parent),
        environment=memory.environment if memory else (),
    )
    ask = curl_hint(service, served_name(job.spec))
    notes = [*_remarks(row, memory), *([] if output else [_SAVE, _MAKE_KEY])]
    heading = Heading(of=job.name, file=target.name, ask=ask, remarks=notes)
    text = compose_file(service, heading)
    if output:
        made = write_secret(key, new_key())
        write_text(output, text)
        session.console.say(f"{key}: {'a new API key' if made else 'the API key is kept'}")
    shown = {
        "recipe": found.name,
        "cell": job.cell.id,
        "image": records.plain(chosen),
        "board": row.name if row else None,
        "file": str(output) if output else None,
        "key_file": str(key) if output else None,
        "text": text,
        "service": records.plain(service),
    }
    session.console.result(shown, str(output) if output else text.rstrip("\n"))


def _remarks(board: Board | None, memory: Memory | None) -> list[str]:
    if board is None or memory is None:
        return ["No board is named: nothing limits its memory and processors (--board NAME)."]
    lines = [f"Its limits are what {board.name} has, less what the system needs."]
    if memory.fit and memory.fit.verdict == "no":
        lines.append(f"By estimate the model does not fit {board.name}: `jbuild fit` shows the sum.")
    return lines + [f"On {board.name}, {remark}." for remark in memory.remarks]

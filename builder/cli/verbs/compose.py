"""`jbuild compose`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.cli.verb_options import (
    board_option,
    image_option,
    lookup_registry_option,
    publish_option,
    refuse_options,
)
from builder.device.compose_file import compose_file
from builder.device.image_choice import SelectedImage, image_of
from builder.device.service import Memory, chosen_board, curl_hint, memory_of, new_key, service_of
from builder.device.service_records import Published, Service
from builder.host.files import secret_beside, write_secret, write_text
from builder.image.runtime import served_name
from builder.jetson.boards import Board

_FILE = "compose.yaml"
_KEY = "vllm-api-key"
_SAVE = f"Save this as {_FILE}, or let jbuild write the file and its API key: --output {_FILE}."
_MAKE_KEY = f"Create its API key: mkdir -m 700 secrets && openssl rand -hex 24 >secrets/{_KEY}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeResult:
    """A compose file: its text, and the service that it holds. `file` is None if the text was printed."""

    recipe: str
    cell: str
    image: SelectedImage
    board: str | None
    file: str | None
    key_file: str | None
    text: str
    service: Service


@recipe_verb(
    "compose",
    board_option,
    image_option,
    publish_option,
    lookup_registry_option,
    click.option(
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the compose file here, with a new API key beside it. Default: standard output.",
    ),
)
def command(
    selection: CellSelection,
    board: str | None,
    image: str | None,
    published: Published | None,
    registries: tuple[str, ...],
    output: Path | None,
) -> None:
    """Write a compose file for the image of a cell of RECIPE: hardened, and limited to the resources of a board.

    A published image is named by digest. The API key is a separate file; jbuild does not replace an existing one.
    """
    if image:
        refuse_options(("registries",), "has no effect with --image")
    session, job = selection.session, selection.only_job("a compose file runs one image")
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
    text = compose_file(service, of=job.name, file=target.name, ask=ask, remarks=notes)
    if output:
        is_new = write_secret(key, new_key())
        write_text(output, text)
        session.console.say(f"{key}: {'a new API key' if is_new else 'the API key is kept'}")
    result = ComposeResult(
        recipe=job.recipe.name,
        cell=job.cell.id,
        image=chosen,
        board=row.name if row else None,
        file=str(output) if output else None,
        key_file=str(key) if output else None,
        text=text,
        service=service,
    )
    show(result, str(output) if output else text.rstrip("\n"), session.console)


def _remarks(board: Board | None, memory: Memory | None) -> list[str]:
    if board is None or memory is None:
        return ["No board is named: nothing limits its memory and processors (--board NAME)."]
    lines = [f"Its limits are what {board.name} has, less what the system needs."]
    if memory.fit and memory.fit.verdict == "no":
        lines.append(f"By estimate the model does not fit {board.name}: `jbuild fit` shows the sum.")
    return lines + [f"On {board.name}, {remark}." for remark in memory.remarks]

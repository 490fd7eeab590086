"""`jbuild compose` and `jbuild run`: an image of a recipe on a device."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from builder.cli.cell_selection import CellSelection, recipe_verb
from builder.cli.results import show
from builder.cli.verb_options import board_option, image_option, lookup_registry_option, output_option, refuse_options
from builder.device import service_container as containers
from builder.device.compose_file import compose_file
from builder.device.image_choice import SelectedImage, choose, image_of
from builder.device.local_server import FollowedServer, StartedServer, described, follow, service_here
from builder.device.service import (
    Memory,
    chosen_board,
    curl_hint,
    memory_of,
    new_key,
    readable_key,
    service_of,
    show_gpu,
    with_engine,
)
from builder.device.service_records import Published, Service, is_open, parse_published
from builder.errors import EngineError
from builder.host import records
from builder.host.engine.docker import find_engine
from builder.host.engine.gpu_access import BY_RUNTIME, GpuAccess
from builder.host.files import secret_beside, write_secret, write_text
from builder.host.session import Session
from builder.image.runtime import served_name
from builder.jetson.boards import Board

_FILE = "compose.yaml"
_KEY = "vllm-api-key"
_SAVE = f"Save this as {_FILE}, or let jbuild write the file and its API key: --output {_FILE}."
_ELSEWHERE = "DOCKER_HOST names the engine that jbuild uses on this machine; leave it out on another one."
_MAKE_KEY = f"Create its API key: mkdir -m 700 secrets && openssl rand -hex 24 >secrets/{_KEY}"


def _published(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Published | None:
    return parse_published(value) if value else None


_SERVICE_OPTIONS = (
    board_option,
    image_option,
    click.option(
        "--publish",
        "published",
        metavar="[ADDRESS:]PORT",
        callback=_published,
        help="Address and port of the server. Default: the recipe's port on loopback.",
    ),
    lookup_registry_option,
)


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
    *_SERVICE_OPTIONS,
    output_option("Write the compose file here, with a new API key beside it. Default: standard output."),
)
def write_compose(
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
    docker, gpu = _engine_here(session)
    service = replace(service, gpu=gpu)
    show_gpu(service, session.console)
    ask = curl_hint(service, served_name(job.spec))
    notes = [*_remarks(row, memory), *([] if output else [_SAVE, _MAKE_KEY]), *([_ELSEWHERE] if " " in docker else [])]
    text = compose_file(service, of=job.name, file=target.name, ask=ask, remarks=notes, docker=docker)
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


def _engine_here(session: Session) -> tuple[str, GpuAccess]:
    """Return the command that reaches jbuild's engine, and this machine's way to the GPU; it may be the board.

    Without an engine, the command is the user's `docker`, and the way is the configured one, else NVIDIA's runtime.
    """
    setting = session.config.gpu
    try:
        engine = find_engine(session.workspace, setting)
    except EngineError:
        return "docker", GpuAccess(method=setting) if setting else BY_RUNTIME
    return engine.docker, engine.gpu or BY_RUNTIME


def _remarks(board: Board | None, memory: Memory | None) -> list[str]:
    if board is None or memory is None:
        return ["No board is named: nothing limits its memory and processors (--board NAME)."]
    lines = [f"Its limits are what {board.name} has, less what the system needs."]
    if memory.fit and memory.fit.verdict == "no":
        lines.append(f"By estimate the model does not fit {board.name}: `jbuild fit` shows the sum.")
    return lines + [f"On {board.name}, {remark}." for remark in memory.remarks]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedServer:
    """A server that ended while jbuild followed its log."""

    followed: FollowedServer = field(metadata=records.FLAT)
    started: StartedServer = field(metadata=records.FLAT)


ServerResult = StartedServer | EndedServer


@recipe_verb(
    "run",
    click.argument("extra", nargs=-1, metavar="[-- EXTRA…]"),
    *_SERVICE_OPTIONS,
    click.option(
        "--key-file", metavar="FILE", help="File with the API key that clients must send. Default: VLLM_API_KEY."
    ),
    click.option("--detach", is_flag=True, help="Run in the background, and restart with Docker."),
)
def run_image(
    selection: CellSelection,
    extra: tuple[str, ...],
    board: str | None,
    image: str | None,
    published: Published | None,
    registries: tuple[str, ...],
    key_file: str | None,
    detach: bool,
) -> None:
    """Run the image of a cell of RECIPE with the settings of `jbuild compose`: hardened, on loopback, until Ctrl-C.

    If RECIPE has several cells, runs the one that `jbuild pick` finds. EXTRA arguments are passed to `vllm serve`.
    """
    if image:
        refuse_options(("registries",), "has no effect with --image")
    session = selection.session
    key = readable_key(key_file) if key_file else None
    job, chosen = choose(selection.jobs(), session, board=board, given=image, registries=registries)
    engine = find_engine(session.workspace, session.config.gpu)
    service = service_here(
        job, chosen, session, engine, board=board, published=published, key_file=key, arguments=extra
    )
    containers.check_engine(service, engine)
    service = with_engine(service, engine)
    show_gpu(service, session.console)
    if is_open(service):
        address = service.published.address
        session.console.warn(f"anybody who can reach {address} can use the model: add --key-file FILE")
    with closing(engine.client()) as client:
        hint = f"`jbuild recipe {selection.recipe.name} --from smoke` loads it again, --image names another"
        containers.provide(client, service.image, service.platform, session.console, hint=hint)
        if detach:
            containers.start(client, service, restart=True)
            started = described(job, service, engine)
            show(started, _started_text(started), session.console)
            return
        with containers.started(client, service) as container:
            started = described(job, service, engine)
            followed = follow(container, service, started, engine, session)
        text = f"{started.container} ended with exit code {followed.exit_code}"
        show(EndedServer(started=started, followed=followed), text, session.console)


def _started_text(started: StartedServer) -> str:
    lines = (
        f"{started.container} starts; it is ready when this answers:",
        f"  {started.ask}",
        f"  {started.docker} logs --follow {started.container}",
        f"  {started.docker} rm --force {started.container}",
    )
    return "\n".join(lines)

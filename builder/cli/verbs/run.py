"""`jbuild run`."""

from __future__ import annotations

from dataclasses import dataclass, field

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
from builder.device import service_container as containers
from builder.device.image_choice import choose
from builder.device.local_server import FollowedServer, StartedServer, described, follow, service_here
from builder.device.service import readable_key
from builder.device.service_records import Published, is_open
from builder.host import records
from builder.host.engine.docker import find_engine


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedServer:
    """A server that ended while jbuild followed its log."""

    followed: FollowedServer = field(metadata=records.FLAT)
    started: StartedServer = field(metadata=records.FLAT)


ServerResult = StartedServer | EndedServer


@recipe_verb(
    "run",
    click.argument("extra", nargs=-1, metavar="[-- EXTRA…]"),
    board_option,
    image_option,
    publish_option,
    lookup_registry_option,
    click.option(
        "--key-file", metavar="FILE", help="File with the API key that clients must send. Default: VLLM_API_KEY."
    ),
    click.option("--detach", is_flag=True, help="Run in the background, and restart with Docker."),
)
def command(
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
    engine = find_engine(session.workspace)
    service = service_here(
        job, chosen, session, engine, board=board, published=published, key_file=key, arguments=extra
    )
    containers.check_engine(service, engine)
    if is_open(service):
        session.console.warn(
            f"anybody who can reach {service.published.address} can use the model: add --key-file FILE"
        )
    client = engine.client()
    try:
        hint = f"`jbuild recipe {selection.recipe.name} --from smoke` loads it again, --image names another"
        containers.provide(client, service.image, service.platform, session.console, hint=hint)
        if detach:
            containers.start(client, service, restart=True)
            started = described(job, service, engine)
            show(started, _text(started), session.console)
            return
        with containers.started(client, service) as container:
            started = described(job, service, engine)
            followed = follow(container, service, started, engine, session)
        text = f"{started.container} ended with exit code {followed.exit_code}"
        show(EndedServer(started=started, followed=followed), text, session.console)
    finally:
        client.close()


def _text(started: StartedServer) -> str:
    lines = (
        f"{started.container} starts; it is ready when this answers:",
        f"  {started.ask}",
        f"  {started.docker} logs --follow {started.container}",
        f"  {started.docker} rm --force {started.container}",
    )
    return "\n".join(lines)

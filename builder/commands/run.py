"""`jbuild run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from builder import records
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.commands.serving import board_option, image_option, possible_cells, publish_option
from builder.commands.working import registry_option
from builder.engine import find_engine
from builder.resolve.jobs import job_of
from builder.serve.images import choose
from builder.serve.service import is_open, readable_key

if TYPE_CHECKING:
    from builder.serve.here import Started
    from builder.serve.model import Published


@click.command("run")
@recipe_argument
@click.argument("extra", nargs=-1, metavar="[-- EXTRA…]")
@cell_option
@board_option
@image_option
@publish_option
@registry_option
@click.option("--key-file", metavar="FILE", help="The API key that callers must send; else VLLM_API_KEY.")
@click.option("--detach", is_flag=True, help="Leave it running in the background, also after a restart of Docker.")
@as_json
def command(
    recipe: str,
    extra: tuple[str, ...],
    selectors: tuple[str, ...],
    board: str | None,
    image: str | None,
    published: Published | None,
    registries: tuple[str, ...],
    key_file: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Run the image of a cell of RECIPE as `jbuild compose` would: hardened, on loopback, until Ctrl-C.

    Of several cells it takes the one that `jbuild pick` names. EXTRA goes to `vllm serve`.
    """
    from builder.serve import container as containers  # noqa: PLC0415  # the engine's API is slow to import
    from builder.serve.here import described, follow, service_here  # noqa: PLC0415

    session = open_session(as_json=as_json)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    key = readable_key(key_file) if key_file else None
    jobs = [job_of(found, cell) for cell in possible_cells(found, cells)]
    job, chosen = choose(jobs, session, board=board, given=image, registries=registries)
    engine = find_engine(session.workspace)
    service = service_here(
        job, chosen, session, engine, board=board, published=published, key_file=key, arguments=extra
    )
    containers.check_engine(service, engine)
    if is_open(service):
        session.console.warn(f"whoever reaches {service.published.address} can use the model: add --key-file FILE")
    client = engine.client()
    try:
        hint = f"`jbuild recipe {found.name} --from smoke` makes it anew, --image names another"
        containers.provide(client, service.image, service.platform, session.console, hint=hint)
        if detach:
            containers.start(client, service, restart=True)
            started = described(job, service, engine)
            session.console.result(records.plain(started), _text(started))
            return
        with containers.started(client, service) as container:
            started = described(job, service, engine)
            seen = follow(container, service, started, engine, session)
        said = f"{started.container} has ended with exit code {seen.exit_code}"
        session.console.result({**records.plain(started), **records.plain(seen)}, said)
    finally:
        client.close()


def _text(started: Started) -> str:
    lines = (
        f"{started.container} starts; it is ready when this answers:",
        f"  {started.ask}",
        f"  {started.docker} logs --follow {started.container}",
        f"  {started.docker} rm --force {started.container}",
    )
    return "\n".join(lines)

"""A container started for a measurement only, and gone after it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.bench.measure import Target
from builder.errors import EngineError
from builder.remote.openai import OpenAIServer
from builder.serve import container as containers
from builder.serve.ask import address_of
from builder.serve.model import Published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.console import Console
    from builder.engine import Engine
    from builder.serve.model import Service

# Any port that is free: a server that runs already keeps its own.
ANYWHERE = Published(address="127.0.0.1", port=None)
_KEY = "VLLM_API_KEY"


def provided(image: str, engine: Engine, console: Console, *, hint: str) -> dict[str, Any]:
    """Return what the engine says of an image, pulled if need be.

    Raises:
        EngineError: it cannot be had.
    """
    client = engine.client()
    try:
        containers.provide(client, image, None, console, hint=hint)
        return dict(client.images.get(image).attrs)
    finally:
        client.close()


@contextmanager
def started(service: Service, engine: Engine, console: Console, *, hint: str) -> Iterator[Target]:
    """Give a service's server once it answers, in a container beside any other of it.

    Raises:
        EngineError: the engine cannot run it, or is another machine's.
        SmokeError: the server does not get ready.
    """
    if not engine.is_local:
        raise EngineError(
            "the engine is on another machine, whose loopback cannot be reached",
            where=engine.endpoint,
            hint="start the server there with `jbuild run --detach`, and measure it with --url",
        )
    containers.check_engine(service, engine)
    own = replace(service, name=f"{service.name}-bench", published=ANYWHERE)
    client = engine.client()
    try:
        containers.provide(client, own.image, own.platform, console, hint=hint)
        with containers.started(client, own) as container:
            url = address_of(containers.published_of(container, own))
            ready_s = containers.await_ready(container, own, url, console)
            yield Target(
                server=OpenAIServer(url=url, key=dict(own.environment).get(_KEY)),
                subject=own.image,
                level=_level(own, engine),
                container=container,
                port=own.port,
                ready_s=ready_s,
            )
    finally:
        client.close()


def _level(service: Service, engine: Engine) -> str:
    if not service.platform.endswith(f"/{engine.architecture}"):
        return "emulated"
    return "gpu" if service.nvidia else "cpu"

"""Runs a cell's server on this machine's engine: its settings, its description for users, and its log."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.device import service_container as containers
from builder.device.service import chosen_board, curl_hint, memory_of, service_of
from builder.device.service_records import API_KEY, address_of
from builder.host.engine.emulation import emulator_settings
from builder.image.runtime import served_name
from builder.remote.openai import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.device.image_choice import SelectedImage
    from builder.device.service_records import Published, Service
    from builder.host.engine.container import RunningContainer
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.model.locks import Job

_ASK_EVERY_S = 1.0
# The image cannot know the published address, by which jbuild itself warns.
_OWN_WARNING = re.compile(r"jbuild: warning: listening at .* without an API key: ")


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedServer:
    """A started container: the server's URL, a command that asks it, and the `docker` command of its engine."""

    recipe: str
    cell: str
    container: str
    image: str
    url: str
    ask: str
    docker: str


@dataclass(slots=True)
class FollowedServer:
    """The course of a server: seconds until it was ready, its exit code, and whether Ctrl-C ended it."""

    ready_s: float | None = None
    exit_code: int | None = None
    interrupted: bool = False


def service_here(
    job: Job,
    chosen: SelectedImage,
    session: Session,
    engine: Engine,
    *,
    board: str | None = None,
    published: Published | None = None,
    key_file: Path | None = None,
    arguments: Sequence[str] = (),
) -> Service:
    """Return a cell's service on an engine, with a board's limits, settings for emulation and the environment's key.

    Raises:
        RecipeError, UsageError: see `service_of` and `chosen_board`.
    """
    row = chosen_board(job, board)
    environment: dict[str, str] = {}
    if job.platform.architecture != engine.architecture:
        # The smoke run has the same settings.
        environment |= dict((*emulator_settings(job.platform.architecture), *job.spec.smoke.environment))
    if row:
        memory = memory_of(job, row, session)
        environment |= dict(memory.environment)
        for remark in memory.remarks:
            session.console.say(f"on {row.name}, {remark}")
    if key_file is None and os.environ.get(API_KEY):
        environment[API_KEY] = os.environ[API_KEY]
    return service_of(
        job,
        chosen.reference,
        row,
        published=published,
        key_file=key_file,
        environment=tuple(environment.items()),
        arguments=arguments,
    )


def described(job: Job, service: Service, engine: Engine) -> StartedServer:
    """Describe the container of a started service."""
    return StartedServer(
        recipe=job.recipe.name,
        cell=job.cell.id,
        container=service.name,
        image=service.image,
        url=address_of(service.published, engine.host),
        ask=curl_hint(service, served_name(job.spec), engine.host),
        docker=engine.docker,
    )


def follow(
    container: RunningContainer, service: Service, started: StartedServer, engine: Engine, session: Session
) -> FollowedServer:
    """Show a server's log until it ends; Ctrl-C stops it cleanly and is its normal end.

    Raises:
        SmokeError: the server failed.
    """
    console, server, over = session.console, FollowedServer(), threading.Event()
    if engine.is_local:
        threading.Thread(target=_say_when_ready, args=(server, started, session, over), daemon=True).start()
    try:
        for line in container.log_lines():
            if not _OWN_WARNING.match(line):
                console.say(line)
    except KeyboardInterrupt:
        server.interrupted = True
        over.set()
        console.note(f"stopping {service.name}, within {service.stop_within_s} s")
        container.stop(service.stop_within_s)
    finally:
        over.set()
    if server.interrupted:
        server.exit_code = container.wait()
        if server.exit_code == containers.KILLED:
            console.warn(f"{service.name} did not stop within {service.stop_within_s} s and was killed")
    else:
        server.exit_code = containers.end_of(container, service)
    return server


def _say_when_ready(seen: FollowedServer, started: StartedServer, session: Session, over: threading.Event) -> None:
    start_s, server = time.monotonic(), OpenAIServer(url=started.url)
    while not over.wait(_ASK_EVERY_S):
        if server.is_healthy():
            seen.ready_s = round(time.monotonic() - start_s, 1)
            session.console.note(f"ready after {seen.ready_s:.0f} s; Ctrl-C ends the server; try it:\n  {started.ask}")
            return

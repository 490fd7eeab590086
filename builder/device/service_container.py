"""A service as a container of the engine: created, watched until it answers, stopped cleanly, removed."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import LogConfig
from requests import RequestException

from builder.device.service_records import CACHE, CPU_PERIOD_US, KEY_TARGET, address_of
from builder.errors import EngineError, SmokeError
from builder.host.engine.container import RunningContainer
from builder.remote.openai import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient

    from builder.device.service_records import Service
    from builder.host.console import Console
    from builder.host.engine.docker import Engine

_NVIDIA = "nvidia"
_LAST_LINES = 60
_KILLED = 137
_POLL_S = 0.5


def arguments_of(service: Service, *, restart: bool = False) -> dict[str, Any]:
    """Return what the engine's API is given to create a service's container."""
    volumes = {service.volume: {"bind": CACHE, "mode": "rw"}}
    if service.key_file:
        volumes[str(service.key_file.absolute())] = {"bind": KEY_TARGET, "mode": "ro"}
    published = service.published
    arguments = {
        "name": service.name,
        "image": service.image,
        "command": list(service.arguments) or None,
        "platform": service.platform,
        "environment": service.container_environment,
        "ports": {f"{service.port}/tcp": (published.address, published.port)},
        "volumes": volumes,
        "read_only": True,
        "tmpfs": dict(service.tmpfs),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "shm_size": service.shm_bytes,
        "log_config": LogConfig(
            type="json-file", config={"max-size": service.log_size, "max-file": str(service.log_files)}
        ),
        "use_config_proxy": False,
        "mem_limit": service.memory_bytes,
        "cpu_period": CPU_PERIOD_US if service.cpus else None,
        "cpu_quota": service.cpus * CPU_PERIOD_US if service.cpus else None,
        "restart_policy": {"Name": service.restart} if restart else None,
        "runtime": _NVIDIA if service.nvidia else None,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def check_engine(service: Service, engine: Engine) -> None:
    """Refuse what the engine cannot run.

    Raises:
        EngineError: it runs no programs of that architecture, or has not NVIDIA's runtime.
    """
    engine.require("arm64" if service.platform.endswith("/arm64") else "amd64")
    if service.nvidia and _NVIDIA not in engine.runtimes:
        raise EngineError(
            "the engine has no `nvidia` runtime, and the image needs the GPU",
            where=engine.endpoint,
            hint="install nvidia-container-toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker`, "
            "restart Docker; then `jbuild doctor`",
        )


def provide(client: DockerClient, image: str, platform: str | None, console: Console, *, hint: str) -> None:
    """Make sure that the engine has an image; pull it if not.

    Raises:
        EngineError: it has not, and cannot pull it.
    """
    with suppress(ImageNotFound):
        client.images.get(image)
        return
    with console.task(f"pulling {image}", unit="layers") as task:
        try:
            for event in client.api.pull(image, stream=True, decode=True, platform=platform):
                if "error" in event:
                    raise EngineError(f"cannot pull the image: {event['error']}", where=image, hint=hint)
                if event.get("status") == "Pull complete":
                    task.advance(1)
        except (APIError, RequestException) as error:
            raise EngineError(f"cannot pull the image: {_explanation(error)}", where=image, hint=hint) from error


def start(client: DockerClient, service: Service, *, restart: bool = False) -> RunningContainer:
    """Create and start a service's container; what cannot be started is removed again.

    Raises:
        EngineError: the engine will not.
    """
    try:
        created = client.containers.create(**arguments_of(service, restart=restart))
    except APIError as error:
        is_taken = error.status_code == HTTPStatus.CONFLICT
        hint = f"stop it: `docker rm --force {service.name}`" if is_taken else "see the engine's log; `jbuild doctor`"
        raise EngineError(_explanation(error), where=service.image, hint=hint) from error
    container = RunningContainer(created)
    try:
        created.start()
    except APIError as error:
        container.remove()
        message = f"the container does not start: {_explanation(error)}"
        hint = "is the port taken? Name another with --publish; `jbuild doctor` looks at the engine"
        raise EngineError(message, where=service.image, hint=hint) from error
    except BaseException:
        container.remove()
        raise
    return container


@contextmanager
def started(client: DockerClient, service: Service) -> Iterator[RunningContainer]:
    """Give a service's container, started; it is stopped cleanly and removed at the end of the block.

    Raises:
        EngineError: the engine will not start it.
    """
    container = start(client, service)
    try:
        yield container
    finally:
        try:
            container.stop(service.stop_within_s)
        finally:
            container.remove()


def await_ready(container: RunningContainer, service: Service, console: Console) -> tuple[str, float]:
    """Wait until a container's server answers; return its address and the seconds that it took.

    Raises:
        SmokeError: it ended, or did not answer within its time.
    """
    start_s, within_s = time.monotonic(), service.health.start_period_s
    with console.task(f"starting {service.image}", unit="lines") as task:
        while (elapsed_s := time.monotonic() - start_s) < within_s:
            if not container.state().running:
                end_of(container, service)
                raise SmokeError("the server ended before it was ready", where=service.name, hint="see its arguments")
            # The engine publishes a port a moment after the start.
            port = service.published.port or container.published(service.port)
            url = address_of(replace(service.published, port=port))
            if port and OpenAIServer(url=url).is_healthy():
                return url, round(elapsed_s, 1)
            task.note(container.last_lines(1))
            time.sleep(_POLL_S)
    raise SmokeError(
        f"the server was not ready within {within_s} s",
        where=service.name,
        hint="`ready-within-s` under [smoke] in the recipe is how long it may take",
        log=container.last_lines(_LAST_LINES),
    )


def end_of(container: RunningContainer, service: Service) -> int:
    """Return the exit code of a container that has ended.

    Raises:
        SmokeError: its server ended by itself, and not well.
    """
    code = container.wait()
    if code == 0:
        return code
    out_of_memory = container.state().out_of_memory
    why = "was killed: it used more memory than it may" if out_of_memory else f"ended with exit code {code}"
    hint = "`jbuild smoke RECIPE` says what usually helps"
    if out_of_memory or code == _KILLED:
        hint = "give it less to do (--max-model-len, --max-num-seqs) or more memory; `jbuild fit` shows the sum"
    raise SmokeError(f"the server {why}", where=service.name, hint=hint, log=container.last_lines(_LAST_LINES))


def _explanation(error: DockerException | RequestException) -> str:
    return str(getattr(error, "explanation", None) or error)

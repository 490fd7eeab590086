"""Runs a service as a container: creates it, waits until it answers, stops it cleanly and removes it."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, ImageNotFound
from docker.types import LogConfig
from requests import RequestException

from builder.device.service_records import CACHE, CPU_PERIOD_US, KEY_TARGET, address_of
from builder.errors import EngineError, SmokeError
from builder.host.engine.container import RunningContainer, remove_leftovers
from builder.host.engine.sdk_errors import reason_of
from builder.host.engine.temporary import owner_label
from builder.remote.openai import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient

    from builder.device.service_records import Service
    from builder.host.console import Console
    from builder.host.engine.docker import Engine

_LAST_LINES = 60
KILLED = 137
_POLL_S = 0.5


def arguments_of(service: Service, *, restart: bool = False) -> dict[str, Any]:
    """Return the arguments of the engine's API that create a service's container."""
    volumes = {service.volume: {"bind": CACHE, "mode": "rw"}}
    if service.key_file:
        volumes[str(service.key_file.absolute())] = {"bind": KEY_TARGET, "mode": "ro"}
    arguments = {
        "name": service.name,
        "image": service.image,
        "command": list(service.arguments) or None,
        "platform": service.platform,
        "environment": service.container_environment,
        "ports": {f"{service.port}/tcp": (service.published.address, service.published.port)},
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
    }
    if service.host_network:
        del arguments["ports"]
        arguments["network_mode"] = "host"
    arguments |= service.gpu.arguments() if service.nvidia else {}
    return {name: value for name, value in arguments.items() if value is not None}


def check_engine(service: Service, engine: Engine) -> None:
    """Refuse a service that the engine cannot run.

    Raises:
        EngineError: the engine cannot run the architecture, or has no way to give it the GPU.
    """
    engine.require("arm64" if service.platform.endswith("/arm64") else "amd64")
    if service.nvidia and engine.gpu is None:
        raise EngineError(
            "the engine has no `nvidia` runtime and no CDI device of the GPU, and the image needs the GPU",
            where=engine.endpoint,
            hint="install nvidia-container-toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker`, or "
            "`sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` for an engine with CDI, and restart Docker; "
            "then `jbuild doctor`. If the engine has a way that it does not state, set `run.gpu` in jbuild.toml",
        )


def provide(client: DockerClient, image: str, platform: str | None, console: Console, *, hint: str) -> None:
    """Pull an image if the engine lacks it.

    Raises:
        EngineError: the engine cannot pull it.
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
            raise EngineError(f"cannot pull the image: {reason_of(error)}", where=image, hint=hint) from error


def start(
    client: DockerClient, service: Service, *, restart: bool = False, temporary: bool = False
) -> RunningContainer:
    """Create and start a service's container; remove it again if it does not start.

    A `temporary` one belongs to this process: if the process is killed, a later one removes the container.

    Raises:
        EngineError: the engine does not create or start it.
    """
    try:
        labels = owner_label() if temporary else {}
        created = client.containers.create(labels=labels, **arguments_of(service, restart=restart))
    except APIError as error:
        is_taken = error.status_code == HTTPStatus.CONFLICT
        hint = f"stop it: `docker rm --force {service.name}`" if is_taken else "see the engine's log; `jbuild doctor`"
        raise EngineError(reason_of(error), where=service.image, hint=hint) from error
    container = RunningContainer(created)
    try:
        created.start()
    except BaseException as error:
        container.remove()
        if not isinstance(error, APIError):
            raise
        message = f"the container does not start: {reason_of(error)}"
        hint = "if the port is taken, name another one with --publish; `jbuild doctor` checks the engine"
        raise EngineError(message, where=service.image, hint=hint) from error
    return container


@contextmanager
def started(client: DockerClient, service: Service) -> Iterator[RunningContainer]:
    """Run a service's container for the block; stop it cleanly and remove it at the end.

    Raises:
        EngineError: the engine does not start it.
    """
    remove_leftovers(client)
    with ExitStack() as at_the_end:
        container = start(client, service, temporary=True)
        at_the_end.callback(container.remove)
        at_the_end.callback(container.stop, service.stop_within_s)
        yield container


def await_ready(container: RunningContainer, service: Service, console: Console) -> tuple[str, float]:
    """Wait until a container's server answers; return its URL and the seconds until then.

    Raises:
        SmokeError: the server ended, or did not answer in time.
    """
    start_s, within_s = time.monotonic(), service.health.start_period_s
    with console.task(f"starting {service.image}", unit="lines") as task:
        while (elapsed_s := time.monotonic() - start_s) < within_s:
            if not container.state().running:
                end_of(container, service)
                raise SmokeError("the server ended before it was ready", where=service.name, hint="check its arguments")
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
        hint="if it needs longer, raise `ready-within-s` under [smoke] in the recipe",
        log=container.last_lines(_LAST_LINES),
    )


def end_of(container: RunningContainer, service: Service) -> int:
    """Return the exit code of a container that has ended.

    Raises:
        SmokeError: the server failed.
    """
    code = container.wait()
    if code == 0:
        return code
    out_of_memory = container.state().out_of_memory
    why = "was killed: it exceeded its memory limit" if out_of_memory else f"ended with exit code {code}"
    hint = "`jbuild smoke RECIPE` names the usual remedies"
    if out_of_memory or code == KILLED:
        hint = "lower --max-model-len or --max-num-seqs, or give it more memory; `jbuild fit` shows the sum"
    raise SmokeError(f"the server {why}", where=service.name, hint=hint, log=container.last_lines(_LAST_LINES))

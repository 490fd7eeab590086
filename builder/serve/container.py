"""A service as a container of the engine: created, watched until it answers, stopped cleanly, removed."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig
from requests import RequestException

from builder.errors import EngineError, SmokeError
from builder.jetson.symptoms import clean
from builder.serve.model import CACHE, CPU_PERIOD_US, KEY_TARGET, KEY_VARIABLE, Published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient
    from docker.models.containers import Container

    from builder.console import Console
    from builder.engine import Engine
    from builder.serve.model import Service

_NVIDIA = "nvidia"
_LAST_LINES = 60
_KILLED = 137
# A port is published a moment after the start.
_PUBLISHED_WITHIN_S = 5.0


def arguments_of(service: Service, *, restart: bool = False) -> dict[str, Any]:
    """Return what the engine's API is given to create a service's container."""
    volumes = {service.volume: {"bind": CACHE, "mode": "rw"}}
    environment = dict(service.environment)
    if service.key_file:
        volumes[str(service.key_file.absolute())] = {"bind": KEY_TARGET, "mode": "ro"}
        environment = {KEY_VARIABLE: KEY_TARGET} | environment
    published = service.published
    arguments: dict[str, Any] = {
        "name": service.name,
        "image": service.image,
        "command": list(service.arguments) or None,
        "platform": service.platform,
        "environment": environment,
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
    }
    if service.memory_bytes:
        arguments["mem_limit"] = service.memory_bytes
    if service.cpus:
        arguments |= {"cpu_period": CPU_PERIOD_US, "cpu_quota": service.cpus * CPU_PERIOD_US}
    if restart:
        arguments["restart_policy"] = {"Name": service.restart}
    return arguments | ({"runtime": _NVIDIA} if service.nvidia else {})


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
    """Make sure that the engine has an image; it is pulled if its name is a registry's.

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
            raise EngineError(f"cannot pull the image: {_said(error)}", where=image, hint=hint) from error


def start(client: DockerClient, service: Service, *, restart: bool = False) -> Container:
    """Create and start a service's container; what cannot be started is removed again.

    Raises:
        EngineError: the engine will not.
    """
    try:
        container = client.containers.create(**arguments_of(service, restart=restart))
    except APIError as error:
        taken = error.status_code == HTTPStatus.CONFLICT
        hint = f"stop it: `docker rm --force {service.name}`" if taken else "see the engine's log; `jbuild doctor`"
        raise EngineError(_said(error), where=service.image, hint=hint) from error
    try:
        container.start()
    except APIError as error:
        remove(container)
        hint = "is the port taken? Name another with --publish; `jbuild doctor` looks at the engine"
        raise EngineError(f"the container does not start: {_said(error)}", where=service.image, hint=hint) from error
    except BaseException:
        remove(container)
        raise
    return container


@contextmanager
def started(client: DockerClient, service: Service) -> Iterator[Container]:
    """Give a service's container, started; it is stopped cleanly and removed at the end of the block.

    Raises:
        EngineError: the engine will not start it.
    """
    container = start(client, service)
    try:
        yield container
    finally:
        try:
            with suppress(NotFound):
                container.stop(timeout=service.stop_within_s)
        finally:
            remove(container)


def published_of(container: Container, service: Service) -> Published:
    """Return where a container's server is really published.

    Raises:
        EngineError: it is not, within seconds.
        SmokeError: its server has ended already.
    """
    if service.published.port:
        return service.published
    until = time.monotonic() + _PUBLISHED_WITHIN_S
    while time.monotonic() < until:
        container.reload()
        if container.status == "exited":
            end_of(container, service)
        for each in container.ports.get(f"{service.port}/tcp") or ():
            return Published(address=service.published.address, port=int(each["HostPort"]))
        time.sleep(0.1)
    raise EngineError("the container's port is not published", where=service.name, hint="see `docker logs`")


def log_lines(container: Container) -> Iterator[str]:
    """Yield a container's log as it comes, line by line, until the container ends."""
    rest = b""
    for piece in container.logs(stream=True, follow=True):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (clean(line.decode(errors="replace")) for line in whole)
    if rest:
        yield clean(rest.decode(errors="replace"))


def end_of(container: Container, service: Service) -> int:
    """Return the exit code of a container that has ended.

    Raises:
        SmokeError: its server ended by itself, and not well.
    """
    code = int(container.wait()["StatusCode"])
    if code == 0:
        return code
    container.reload()
    log = last_lines(container, _LAST_LINES)
    out_of_memory = bool((container.attrs.get("State") or {}).get("OOMKilled"))
    why = "was killed: it used more memory than it may" if out_of_memory else f"ended with exit code {code}"
    hint = "`jbuild smoke RECIPE` says what usually helps"
    if out_of_memory or code == _KILLED:
        hint = "give it less to do (--max-model-len, --max-num-seqs) or more memory; `jbuild fit` shows the sum"
    raise SmokeError(f"the server {why}", where=service.name, hint=hint, log=log)


def last_lines(container: Container, count: int) -> str:
    """Return the end of a container's log."""
    return readable(container.logs(tail=count))


def readable(log: bytes) -> str:
    """Return a log as text, without what a terminal would obey."""
    return "\n".join(clean(line) for line in log.decode(errors="replace").splitlines())


def remove(container: Container) -> None:
    """Remove a container whatever it does; that it is gone already is as good."""
    with suppress(NotFound):
        container.remove(force=True, v=True)


def _said(error: DockerException | RequestException) -> str:
    return str(getattr(error, "explanation", None) or error)

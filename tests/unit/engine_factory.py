"""Engines and containers for tests that start neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from docker.errors import APIError, NotFound
from factories import make_job

from builder.device.service import service_of
from builder.host.engine.container import RunningContainer
from builder.host.engine.docker import Engine

if TYPE_CHECKING:
    from docker.models.containers import Container

SERVICE = service_of(make_job(), "image")


class Fake:
    """A container of an engine that is not there."""

    def __init__(
        self, code: int = 0, log: tuple[bytes, ...] = (), *, killed: bool = False, running: bool = True
    ) -> None:
        self.code, self.log = code, log
        self.ports: dict[str, Any] = {}
        state = {"Running": running, "ExitCode": code, "OOMKilled": killed}
        self.attrs: dict[str, Any] = {"State": state, "NetworkSettings": {"Ports": self.ports}, "HostConfig": {}}
        self.calls: list[str] = []
        self.refuses: APIError | None = None
        self.gone = False

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.code}

    def reload(self) -> None:
        pass

    def logs(self, *, stream: bool = False, follow: bool = False, tail: int = 0) -> Any:
        return iter(self.log) if stream else b"".join(self.log)

    def start(self) -> None:
        self.calls.append("start")
        if self.refuses:
            raise self.refuses

    def stop(self, timeout: int) -> None:
        self.calls.append(f"stop {timeout}")
        if self.gone:
            raise NotFound("gone")

    def remove(self, *, force: bool, v: bool) -> None:
        self.calls.append("remove")
        if self.gone:
            raise NotFound("gone")


def running_container(fake: Fake) -> RunningContainer:
    return RunningContainer(cast("Container", fake))


def make_engine(**changes: Any) -> Engine:
    """Return an engine of an x86-64 machine that emulates arm64; nothing listens at its address."""
    facts: dict[str, Any] = {
        "docker_host": None,
        "context": "default",
        "source": "default",
        "endpoint": "unix:///nowhere.sock",
        "version": "28.0",
        "containerd_store": True,
        "architecture": "amd64",
        "emulated": ("arm64",),
        "runtimes": ("runc",),
    }
    return Engine(**(facts | changes))

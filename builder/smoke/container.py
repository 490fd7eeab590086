"""A container under test: started, watched, and removed whatever happens."""

from __future__ import annotations

import io
import os
import signal
import socket
import tarfile
import threading
import time
import uuid
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, DockerException, NotFound
from docker.types import DeviceRequest
from requests import RequestException

from builder.jetson.symptoms import clean
from builder.workspace import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container

    from builder.recipe.model import Pairs

# Signals that end a run; the container goes first.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LABEL = "jbuild.smoke"
_OWNER = "jbuild.smoke.owner"
# vLLM's processes talk through shared memory; the engine's own 64 MB is too little, and unused space costs nothing.
_SHM_BYTES = 1 << 30
_KEPT_LINES = 2000
_SETTLE_S = 3.0
_REMOVED_WITHIN_S = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How a container is started. `address` is where its port is published, on the engine's machine.

    A `command` stands in place of the image's own program, and publishes no port; `files` are put into the root of the
    container's file system.
    """

    reference: str
    platform: str
    port: int
    environment: Pairs = ()
    address: str = "127.0.0.1"
    memory_bytes: int | None = None
    nvidia: bool = False
    command: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What the engine says of a container."""

    running: bool
    code: int
    out_of_memory: bool
    error: str = ""


class Running:
    """A started container, its log and its memory."""

    def __init__(self, container: Container, log: Path) -> None:
        """Watch a container, keeping its log in a file."""
        self._container = container
        self._log = log
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._last_s = time.monotonic()
        self.peak_memory_bytes: int | None = None
        self._followers = [
            threading.Thread(target=self._follow_log, daemon=True),
            threading.Thread(target=self._follow_memory, daemon=True),
        ]

    def watch(self) -> None:
        """Follow log and memory until the container is gone."""
        for follower in self._followers:
            follower.start()

    @property
    def last_line(self) -> str:
        """The newest line of the log."""
        return self.lines[-1] if self.lines else ""

    @property
    def silent_s(self) -> float:
        """Seconds since the newest line of the log, or since the start."""
        return time.monotonic() - self._last_s

    def tail(self, lines: int = 60) -> str:
        """Return the end of the log."""
        return "\n".join(list(self.lines)[-lines:])

    def state(self) -> State:
        """Ask the engine how the container is."""
        self._container.reload()
        state = self._container.attrs["State"]
        return State(
            running=bool(state["Running"]),
            code=int(state["ExitCode"]),
            out_of_memory=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
        )

    def published(self, port: int) -> int | None:
        """Return the port of the engine's machine that leads to one of the container."""
        self._container.reload()
        ports = self._container.attrs["NetworkSettings"].get("Ports") or {}
        bound = ports.get(f"{port}/tcp")
        return int(bound[0]["HostPort"]) if bound else None

    def runtime(self) -> str:
        """Return the container runtime that the engine used."""
        return str(self._container.attrs["HostConfig"].get("Runtime") or "")

    def health_command(self, reference: str) -> list[str]:
        """Return the image's own health check as a command line; empty if it has none."""
        image = self._container.client.images.get(reference)  # type: ignore[union-attr]
        test = (image.attrs["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
        by_shell = {"CMD": test[1:], "CMD-SHELL": ["/bin/sh", "-c", *test[1:]]}
        return by_shell.get(test[0], [])

    def call(self, argv: list[str]) -> tuple[int, str]:
        """Run a program in the container; return its exit code and what it printed."""
        code, output = self._container.exec_run(argv)
        text = output if isinstance(output, bytes) else b"".join(output)
        return int(code or 0), text.decode(errors="replace").strip()

    def terminate(self) -> bool:
        """Send SIGTERM to PID 1; false if the container is not running any more."""
        try:
            self._container.kill(signal="SIGTERM")
        except APIError:
            if self.state().running:
                raise
            return False
        return True

    def output(self) -> str:
        """Return all that the program has printed to standard output."""
        return self._container.logs(stdout=True, stderr=False).decode(errors="replace")

    def settle(self) -> None:
        """Give the log of an ended container the time to arrive."""
        if not self.state().running:
            self._followers[0].join(_SETTLE_S)

    def _follow_log(self) -> None:
        rest = b""
        with suppress(DockerException, RequestException, OSError), self._log.open("wb") as file:
            for piece in self._container.logs(stream=True, follow=True):
                file.write(piece)
                file.flush()
                *whole, rest = (rest + piece).split(b"\n")
                self._last_s = time.monotonic()
                self.lines.extend(clean(line.decode(errors="replace")) for line in whole)
        if rest:
            self.lines.append(clean(rest.decode(errors="replace")))

    def _follow_memory(self) -> None:
        # A container that is gone ends the stream in one of many ways; none of them matters.
        with suppress(DockerException, RequestException, OSError, ValueError):
            for sample in self._container.stats(stream=True, decode=True):
                used = used_memory(sample) if isinstance(sample, dict) else 0
                if used:
                    self.peak_memory_bytes = max(used, self.peak_memory_bytes or 0)


def used_memory(sample: dict[str, Any]) -> int:
    """Return the bytes of memory in use in a sample of the engine's statistics.

    Files in the cache that can be dropped do not count, as in `docker stats`; cgroup v1 and v2 name them differently.
    """
    memory = sample.get("memory_stats") or {}
    details = memory.get("stats") or {}
    droppable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, int(memory.get("usage") or 0) - int(droppable))


@contextmanager
def running(client: DockerClient, launch: Launch, log: Path) -> Iterator[Running]:
    """Start a container for the block, and remove it at the end, also on Ctrl-C and SIGTERM.

    Raises:
        APIError: the engine will not start it.
        DiskError: the log cannot be written.
    """
    remove_leftovers(client)
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    name = f"jbuild-smoke-{uuid.uuid4().hex[:12]}"
    with _terminated_like_interrupted():
        try:
            container = client.containers.create(name=name, **_arguments(launch))
            if launch.files:
                container.put_archive("/", _archive(launch.files))
            container.start()
            watched = Running(container, log)
            watched.watch()
            yield watched
        finally:
            with _uninterrupted():
                _remove(client, name)


def remove_leftovers(client: DockerClient) -> None:
    """Remove the containers of smoke runs on this machine that were killed before they could."""
    host = socket.gethostname()
    for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        owner, _, process = str(container.labels.get(_OWNER, "")).rpartition(":")
        if owner == host and process.isdigit() and not is_alive(int(process)):
            _remove(client, container.id or "")


def remove_own(client: DockerClient) -> None:
    """Remove all containers of this process: for a scheduler whose threads are still smoking when it is stopped."""
    for container in client.containers.list(all=True, filters={"label": f"{_OWNER}={_owner()}"}, ignore_removed=True):
        _remove(client, container.id or "")


def _arguments(launch: Launch) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "image": launch.reference,
        "platform": launch.platform,
        "environment": dict(launch.environment),
        "labels": {LABEL: "1", _OWNER: _owner()},
        "shm_size": _SHM_BYTES,
        # It is asked once, by the smoke run itself: under emulation every call costs seconds.
        "healthcheck": {"test": ["NONE"]},
        "use_config_proxy": False,
    }
    if launch.command:
        arguments |= {"entrypoint": list(launch.command), "command": []}
    else:
        arguments |= {"ports": {f"{launch.port}/tcp": (launch.address, None)}}
    if launch.memory_bytes:
        arguments |= {"mem_limit": launch.memory_bytes, "memswap_limit": launch.memory_bytes}
    if launch.nvidia:
        arguments |= {"runtime": "nvidia", "device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]}
    return arguments


def _archive(files: tuple[Path, ...]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = file.stat().st_size, 0o444
            with file.open("rb") as content:
                archive.addfile(entry, content)
    return packed.getvalue()


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def is_alive(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(client: DockerClient, name: str) -> None:
    with suppress(NotFound):
        try:
            client.api.remove_container(name, force=True, v=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            # Another thread or process is removing it: it is gone when that one has finished.
            client.api.wait(name, condition="removed", timeout=_REMOVED_WITHIN_S)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind the block as Ctrl-C does, unless somebody handles it already."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put signals off until the block is done: a second Ctrl-C must not keep a container alive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    kept = [(number, signal.signal(number, lambda n, _: came.append(n))) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in kept:
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)

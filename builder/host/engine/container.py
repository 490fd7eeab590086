"""Containers of the engine: started, followed, and always removed."""

from __future__ import annotations

import io
import re
import tarfile
import threading
import time
import uuid
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any

from docker.errors import APIError, DockerException, NotFound
from requests import RequestException

from builder.errors import EngineError
from builder.host import owner
from builder.host.chunk_stream import as_file
from builder.host.engine.gpu_access import uses_gpu
from builder.host.engine.sdk_errors import reason_of
from builder.host.engine.temporary import LABEL, owner_label
from builder.host.files import disk_errors
from builder.host.process import signals_deferred

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container

_REMOVED_WITHIN_S = 30
# Colours and cursor movements, which a terminal must not obey.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TAIL_LINES = 2000
_SETTLE_S = 3.0


def printable_line(line: str) -> str:
    """Return a line of a log without control characters and overwritten text."""
    return _CONTROL.sub("", line.rstrip("\r\n").rsplit("\r", 1)[-1])


def printable_log(log: bytes) -> str:
    """Return a log as text without control characters."""
    return "\n".join(printable_line(line) for line in log.decode(errors="replace").splitlines())


def split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the printable lines of a log that comes in chunks."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (printable_line(line.decode(errors="replace")) for line in lines)
    if rest:
        yield printable_line(rest.decode(errors="replace"))


class LogFollower:
    """Keeps a container's log in a file and its end in memory, and measures the container's peak memory."""

    def __init__(self, container: Container, log: Path) -> None:
        """Follow a container until it is gone."""
        self._container = container
        self._log = log
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._last_s = time.monotonic()
        self.peak_memory_bytes: int | None = None
        self._reader = threading.Thread(target=lambda: self._lines.extend(split_lines(self._chunks())), daemon=True)
        self._reader.start()
        threading.Thread(target=self._follow_memory, daemon=True).start()

    @property
    def last_line(self) -> str:
        """The newest line."""
        return self._lines[-1] if self._lines else ""

    @property
    def silent_s(self) -> float:
        """Seconds since the newest output, or since the start."""
        return time.monotonic() - self._last_s

    def tail(self, count: int = 60) -> str:
        """Return the last lines."""
        return "\n".join(list(self._lines)[-count:])

    def join(self) -> None:
        """Wait a moment for the rest of the log of an ended container."""
        self._reader.join(_SETTLE_S)

    def _chunks(self) -> Iterator[bytes]:
        with suppress(DockerException, RequestException, OSError), self._log.open("wb") as file:
            for chunk in self._container.logs(stream=True, follow=True):
                file.write(chunk)
                file.flush()
                self._last_s = time.monotonic()
                yield chunk

    def _follow_memory(self) -> None:
        # A removed container ends the stream in one of many ways; none of them matters.
        with suppress(DockerException, RequestException, OSError, ValueError):
            for sample in self._container.stats(stream=True, decode=True):
                bytes_used = used_memory(sample) if isinstance(sample, dict) else 0
                if bytes_used:
                    self.peak_memory_bytes = max(bytes_used, self.peak_memory_bytes or 0)


def used_memory(sample: dict[str, Any]) -> int:
    """Return the bytes of memory in use in a sample of the engine's statistics.

    Droppable files in the cache do not count, as in `docker stats`; cgroup v1 and v2 name them differently.
    """
    memory = sample.get("memory_stats") or {}
    details = memory.get("stats") or {}
    droppable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, int(memory.get("usage") or 0) - int(droppable))


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerState:
    """The state of a container; `code` is its exit code."""

    running: bool
    code: int
    out_of_memory: bool
    error: str = ""


class RunningContainer:
    """A container that was started."""

    def __init__(self, container: Container) -> None:
        """Wrap a container of the engine's API."""
        self._container = container

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self._container.name)

    def state(self) -> ContainerState:
        """Ask the engine for the container's state."""
        self._container.reload()
        state = self._container.attrs["State"]
        return ContainerState(
            running=bool(state["Running"]),
            code=int(state["ExitCode"]),
            out_of_memory=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or ""),
        )

    def published(self, port: int) -> int | None:
        """Return the port of the engine's machine for a port of the container."""
        self._container.reload()
        if self._container.attrs["HostConfig"].get("NetworkMode") == "host":
            return port
        ports = self._container.attrs["NetworkSettings"].get("Ports") or {}
        bindings = ports.get(f"{port}/tcp")
        return int(bindings[0]["HostPort"]) if bindings else None

    def has_gpu(self) -> bool:
        """Return whether the engine gave it the GPU."""
        return uses_gpu(self._container.attrs["HostConfig"])

    def health_command(self, reference: str) -> list[str]:
        """Return the health check of the container's image as a command line; empty if it has none."""
        image = self._container.client.images.get(reference)  # type: ignore[union-attr]
        test = (image.attrs["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
        commands = {"CMD": test[1:], "CMD-SHELL": ["/bin/sh", "-c", *test[1:]]}
        return commands.get(test[0], [])

    def execute(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, bytes, bytes]:
        """Run a program in the container; return its exit code, standard output and standard error."""
        completed: Any = self._container.exec_run(list(argv), demux=True, environment=dict(environment or {}))
        stdout, stderr = (stream or b"" for stream in completed.output)
        return int(completed.exit_code or 0), stdout, stderr

    def files_below(self, folder: str) -> Iterator[tuple[str, int, IO[bytes]]]:
        """Yield the path, the mode and the content of each regular file below a folder, in ended containers too.

        A container without the folder has none. The content has to be read before the next file is taken.

        Raises:
            EngineError: the engine does not send them, or not all of them.
        """
        try:
            chunks, _ = self._container.get_archive(folder)
            with tarfile.open(fileobj=as_file(chunks), mode="r|") as archive:
                for entry in archive:
                    content = archive.extractfile(entry) if entry.isreg() else None
                    if content:
                        # The archive names them below the folder's own name.
                        yield entry.name.partition("/")[2], entry.mode, content
        except NotFound:
            return
        except (APIError, tarfile.TarError) as error:
            message = f"the files of {folder} in the container cannot be read: {reason_of(error)}"
            raise EngineError(message, hint="run `jbuild doctor`") from error

    def output(self) -> str:
        """Return the program's standard output so far."""
        return self._container.logs(stdout=True, stderr=False).decode(errors="replace")

    def log_lines(self) -> Iterator[str]:
        """Yield the lines of the log until the container ends."""
        return split_lines(self._container.logs(stream=True, follow=True))

    def last_lines(self, count: int) -> str:
        """Return the end of the log."""
        return printable_log(self._container.logs(tail=count))

    def wait(self) -> int:
        """Return the exit code once the container has ended."""
        return int(self._container.wait()["StatusCode"])

    def terminate(self) -> None:
        """Send SIGTERM to PID 1, unless the container has ended."""
        try:
            self._container.kill(signal="SIGTERM")
        except APIError:
            if self.state().running:
                raise

    def stop(self, within_s: int) -> None:
        """Stop the program by SIGTERM, after `within_s` seconds by SIGKILL."""
        with suppress(NotFound):
            self._container.stop(timeout=within_s)

    def remove(self) -> None:
        """Remove the container, running or not, unless it is gone."""
        _remove(self._container)


class WatchedContainer(RunningContainer):
    """A container whose log and memory are followed."""

    def __init__(self, container: Container, log: Path) -> None:
        """Follow a container that was started; `log` is the file for its log."""
        super().__init__(container)
        self.log = LogFollower(container, log)

    def settle(self) -> None:
        """Wait a moment for the rest of the log of an ended container."""
        if not self.state().running:
            self.log.join()


@contextmanager
def temporary_container(
    client: DockerClient, arguments: Mapping[str, Any], log: Path, files: Sequence[Path] = ()
) -> Iterator[WatchedContainer]:
    """Start a container for the block, and remove it at the end, also on Ctrl-C.

    `arguments` are those of the engine's API, and `files` are copied to the root of the container's file system. The
    containers of killed processes are removed first.

    Raises:
        APIError: the engine does not start it.
        DiskError: the log cannot be written.
    """
    remove_leftovers(client)
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    name = f"jbuild-smoke-{uuid.uuid4().hex[:12]}"
    try:
        container = client.containers.create(name=name, labels=owner_label(), **arguments)
        if files:
            container.put_archive("/", _archive(files))
        container.start()
        yield WatchedContainer(container, log)
    finally:
        # By its name: an interrupted `create` returns no container.
        with signals_deferred(), suppress(NotFound):
            _remove(client.containers.get(name))


def remove_leftovers(client: DockerClient) -> None:
    """Remove temporary containers of this user on this machine whose processes were killed."""
    for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        if owner.has_ended(str(container.labels[LABEL])):
            _remove(container)


def remove_own(client: DockerClient) -> None:
    """Remove all temporary containers of this process, which ends the threads that wait for them."""
    own = f"{LABEL}={owner.own_word()}"
    for container in client.containers.list(all=True, filters={"label": own}, ignore_removed=True):
        _remove(container)


def remove_container(client: DockerClient, name: str) -> bool:
    """Remove a container by its ID or name; return whether it is gone."""
    try:
        with suppress(NotFound):
            _remove(client.containers.get(name))
    except (DockerException, RequestException):
        return False
    return True


def forget_tag(client: DockerClient, name: str) -> bool:
    """Remove a name from an image, and the image with its last name; return whether it is gone."""
    try:
        with suppress(NotFound):
            client.api.remove_image(name, force=True)
    except (DockerException, RequestException):
        # A failed clean-up must not hide the error of the work before it.
        return False
    return True


def _remove(container: Container) -> None:
    with suppress(NotFound):
        try:
            container.remove(force=True, v=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
            # Another thread or process is removing it.
            container.wait(condition="removed", timeout=_REMOVED_WITHIN_S)


def _archive(files: Sequence[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = file.stat().st_size, 0o444
            with file.open("rb") as content:
                archive.addfile(entry, content)
    return buffer.getvalue()

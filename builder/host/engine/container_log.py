"""The log and the memory of a container, followed while it runs."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException
from requests import RequestException

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from docker.models.containers import Container

# Colours and cursor movements: a log is shown on terminals, which must not obey it.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TAIL_LINES = 2000
_SETTLE_S = 3.0


def printable_line(line: str) -> str:
    """Return a line of a log without control characters; of overwritten text, the last version."""
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
    """Keeps a container's log in a file and its end in memory, and the most memory that the container used."""

    def __init__(self, container: Container, log: Path) -> None:
        """Follow a container until it is gone."""
        self._container = container
        self._log = log
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._last_s = time.monotonic()
        self.peak_memory_bytes: int | None = None
        self._reader = threading.Thread(target=self._follow_log, daemon=True)
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

    def _follow_log(self) -> None:
        self._lines.extend(split_lines(self._chunks()))

    def _chunks(self) -> Iterator[bytes]:
        with suppress(DockerException, RequestException, OSError), self._log.open("wb") as file:
            for chunk in self._container.logs(stream=True, follow=True):
                file.write(chunk)
                file.flush()
                self._last_s = time.monotonic()
                yield chunk

    def _follow_memory(self) -> None:
        # A container that is gone ends the stream in one of many ways; none of them matters.
        with suppress(DockerException, RequestException, OSError, ValueError):
            for sample in self._container.stats(stream=True, decode=True):
                bytes_used = used_memory(sample) if isinstance(sample, dict) else 0
                if bytes_used:
                    self.peak_memory_bytes = max(bytes_used, self.peak_memory_bytes or 0)


def used_memory(sample: dict[str, Any]) -> int:
    """Return the bytes of memory in use in a sample of the engine's statistics.

    Files in the cache that can be dropped do not count, as in `docker stats`; cgroup v1 and v2 name them differently.
    """
    memory = sample.get("memory_stats") or {}
    details = memory.get("stats") or {}
    droppable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, int(memory.get("usage") or 0) - int(droppable))

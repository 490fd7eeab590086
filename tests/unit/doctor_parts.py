"""Parts of a machine for the doctor's tests: programs on PATH, an engine, servers on loopback, a Jetson's files."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from engine_factory import make_engine

from builder.project.doctor.check_table import DoctorContext

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.host.session import Session
    from builder.project.doctor.check_table import Check

INSPECTED = "Name: default\nPlatforms: linux/amd64, linux/amd64/v2, linux/arm64\n"


def make_case(session: Session, **changes: Any) -> DoctorContext:
    """Return a machine whose engine answers."""
    facts: dict[str, Any] = {"session": session, "engine": make_engine()}
    return DoctorContext(**(facts | changes))


def program(folder: Path, name: str, script: str) -> Path:
    """Put a program into a folder of PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def docker(folder: Path, *, ran: str = "exit 42", inspected: str = INSPECTED, buildx: str = "echo buildx 0.13") -> Path:
    """Put a docker command there that notes how it is called in `called`, beside itself."""
    script = f"""
echo "$@" >> "$(dirname "$0")/called"
case "$1 $2" in
'buildx version') {buildx} ;;
'buildx inspect') printf '{inspected}' ;;
run*) {ran} ;;
esac"""
    return program(folder, "docker", script)


def called(folder: Path) -> list[str]:
    """Return how the docker command was called."""
    return (folder / "called").read_text().splitlines()


def jetson(root: Path, *, l4t: str = "R36 (release), REVISION: 4.3", parts: str = "nvidia,p3767-0000") -> Path:
    """Write what a Jetson's kernel and its L4T tell."""
    tree = root / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_text(f"{parts}\0nvidia,tegra234\0")
    (tree / "model").write_text("NVIDIA Jetson Orin NX\0")
    (root / "proc" / "meminfo").write_text("MemTotal:       16031744 kB\nMemAvailable:   12000000 kB\n")
    (root / "etc").mkdir()
    (root / "etc" / "nv_tegra_release").write_text(f"# {l4t}, GCID: 1\n")
    return root


def zone(root: Path, number: int, name: str, temperature: int, trips: Mapping[str, int]) -> None:
    """Write a thermal zone, in millidegrees."""
    folder = root / "sys" / "class" / "thermal" / f"thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(f"{name}\n")
    (folder / "temp").write_text(f"{temperature}\n")
    for index, (kind, limit) in enumerate(trips.items()):
        (folder / f"trip_point_{index}_type").write_text(f"{kind}\n")
        (folder / f"trip_point_{index}_temp").write_text(f"{limit}\n")


class Server(ThreadingHTTPServer):
    """Answers every request alike, and notes them; `date` None keeps its own."""

    daemon_threads = True

    def __init__(self, status: int, headers: Mapping[str, str], date: str | None, content: bytes) -> None:
        """Listen on a free port of loopback."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.headers, self.date, self.content = status, headers, date, content
        self.asked: list[str] = []

    @property
    def host(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        """Answer."""
        self.server.asked.append(f"{self.command} {self.path}")
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    do_POST = do_DELETE = do_GET  # noqa: N815  # named by http.server

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Tell the time that this server has."""
        return self.server.date or super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serving(
    status: int = 200, headers: Mapping[str, str] | None = None, date: str | None = None, content: bytes = b""
) -> Iterator[Server]:
    """Run a server."""
    server = Server(status, headers or {}, date, content)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def named(checks: list[Check], name: str) -> Check:
    """Return the one check of a subject."""
    (found,) = [check for check in checks if check.name == name]
    return found

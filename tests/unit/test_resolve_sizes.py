"""Sizes that an index does not tell, asked of a real HTTP server on loopback."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_locked_wheel, make_wheel

from builder.errors import NetworkError
from builder.lock.wheel_properties import measured
from builder.remote import http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel

SIZE = 300_000_000


class Server(ThreadingHTTPServer):
    """Says that every file has `SIZE` bytes, after the statuses that stand under its name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: dict[str, list[int]] = {}
        self.asked: Counter[str] = Counter()

    def wheel(self, name: str, *statuses: int) -> LockedWheel:
        self.statuses[f"/{name}"] = list(statuses)
        return make_locked_wheel(name, url=f"http://127.0.0.1:{self.server_port}/{name}", size=None)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        waiting = self.server.statuses[self.path]
        self.send_response(waiting.pop(0) if waiting else 200)
        if self.path != "/silent":
            self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(bytes(1000))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that tells sizes; nobody waits between tries."""
    monkeypatch.setattr(http.Retry, "_wait_s", lambda _, error, failures: 0.0 if failures < 3 else None)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield running
        running.shutdown()


def test_sizes_are_those_that_the_server_tells(server: Server, session: Session) -> None:
    known = make_locked_wheel("known", size=7)
    wheels = (server.wheel("a"), known, server.wheel("b"))
    found = measured(wheels, session)
    assert [(wheel.name, wheel.size) for wheel in found] == [("a", SIZE), ("known", 7), ("b", SIZE)]
    assert [wheel.url for wheel in found] == [wheel.url for wheel in wheels]


def test_nothing_is_asked_where_all_is_known(server: Server, session: Session) -> None:
    wheels = (make_locked_wheel(size=7),)
    assert measured(wheels, session) == wheels
    assert not server.asked


def test_a_file_on_this_disk(session: Session, tmp_path: Path) -> None:
    path = make_wheel(tmp_path / "a folder")
    for url in (str(path), path.as_uri()):
        wheel = make_locked_wheel(url=url, size=None)
        assert measured((wheel,), session)[0].size == locked(path).size
    assert measured((make_locked_wheel(url=str(tmp_path / "gone.whl"), size=None),), session)[0].size is None


def test_what_is_in_the_wheelhouse_is_asked_of_nobody(server: Server, session: Session) -> None:
    wheel = server.wheel("a", 404)
    path = session.workspace.wheel(wheel.sha256, wheel.filename)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(77))
    assert measured((wheel,), session)[0].size == 77
    assert not server.asked


def test_a_fault_that_passes_is_waited_out(server: Server, session: Session) -> None:
    assert measured((server.wheel("a", 503, 503),), session)[0].size == SIZE
    assert server.asked["/a"] == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_is_refused_is_left_to_the_download(server: Server, session: Session, status: int) -> None:
    assert measured((server.wheel("a", status), server.wheel("b")), session)[0].size is None
    assert server.asked["/a"] == 1


def test_a_server_that_tells_no_size(server: Server, session: Session) -> None:
    assert measured((server.wheel("silent"),), session)[0].size is None


def test_a_server_that_stays_away(server: Server, session: Session) -> None:
    with pytest.raises(NetworkError) as caught:
        measured((server.wheel("a", 503, 503, 503),), session)
    assert caught.value.message == "the server answers 503 Service Unavailable"
    assert str(caught.value.where).endswith("/a")

"""Fronts before a registry, an index and a hub: they forward requests, and a plan says which fail, and how."""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Repeat = Literal["once", "three times", "always"]
_TIMES: dict[Repeat, float] = {"once": 1, "three times": 3, "always": float("inf")}
# Uploads have an address of their own in each run.
_CHANGING = re.compile(r"(?<=/)[0-9a-f]{8}-[0-9a-f-]{27}(?=[?]|$)|[?].*")
_HOP_BY_HOP = ("connection", "transfer-encoding", "date", "server", "content-length", "keep-alive")
_BLOCK = 1 << 16
_SILENT_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a server answers; the length is that of the body, unless `length` says otherwise."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    length: str | None = None

    def header(self, name: str) -> str:
        """Return the value of a header, or ""."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def with_header(self, name: str, value: str | None) -> Reply:
        """Return the same answer with another value of a header, or without the header."""
        others = tuple((key, old) for key, old in self.headers if key.lower() != name.lower())
        return replace(self, headers=others if value is None else (*others, (name, value)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A kind of fault of the requests that match: `SERVER METHOD PATH`."""

    kind: str
    match: str
    act: Callable[[Exchange], None]

    def fits(self, line: str) -> bool:
        """Return whether a request can have this fault."""
        return re.search(self.match, line) is not None


@dataclass(kw_only=True)
class Plan:
    """The fault of a run: it begins at the `nth` request that fits, and repeats for requests of the same address."""

    fault: Fault | None = None
    nth: int = 1
    repeat: Repeat = "once"
    seed: int = 0
    log: list[str] = field(default_factory=list)
    hits: int = 0
    at: str = ""
    _fitting: int = 0
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def take(self, line: str) -> tuple[Fault, int] | None:
        """Return the fault of a request and how often it happened before, or None."""
        with self._mutex:
            self.log.append(line)
            if self.fault is None or not self.fault.fits(line) or self.hits >= _TIMES[self.repeat]:
                return None
            self._fitting += 1
            if self.hits == 0 and self._fitting == self.nth:
                self.at = _CHANGING.sub("", line)
            if not self.at or _CHANGING.sub("", line) != self.at:
                return None
            self.hits += 1
            return self.fault, self.hits - 1


class Front(ThreadingHTTPServer):
    """Forwards to one server. `tokens` asks for Bearer tokens, which it gives to everybody."""

    daemon_threads = True

    def __init__(self, role: str, upstream: str, *, tokens: bool = False) -> None:
        """Listen on a free port of loopback."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.role, self.upstream, self.tokens = role, upstream, tokens
        self.plan = Plan()
        self.other_digest = ""

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: cut connections are the point."""


@contextmanager
def running(front: Front) -> Iterator[Front]:
    """Serve while the block runs."""
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.shutdown()
        front.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Servers close connections that are silent: a client that waits for more than was sent waits this long.
    timeout = _SILENT_S
    server: Front

    def log_message(self, *args: object) -> None:
        pass

    def handle_one(self) -> None:
        front = self.server
        taken = front.plan.take(f"{front.role} {self.command} {self.path}")
        exchange = Exchange(self, random.Random(front.plan.seed), taken[1] if taken else 0)  # noqa: S311
        if taken is None:
            exchange.send(exchange.forward())
            return
        with suppress(OSError):
            taken[0].act(exchange)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815  # http.server's names


class Exchange:
    """One request, and what a fault can do with it; `before` counts the faults of the run so far."""

    def __init__(self, handler: _Handler, rng: random.Random, before: int) -> None:
        self._handler, self.rng, self.before = handler, rng, before
        self.method, self.path = handler.command, handler.path
        self.host = handler.server.host
        self._content: bytes | None = None

    @property
    def other_digest(self) -> str:
        """The digest of an image that the registry has too."""
        return self._handler.server.other_digest

    @property
    def length(self) -> int:
        """The length of the request's body."""
        return int(self._handler.headers.get("Content-Length") or 0)

    def header(self, name: str) -> str:
        """Return a header of the request."""
        return str(self._handler.headers.get(name) or "")

    def receive(self, amount: int | None = None) -> bytes:
        """Return the request's body, or its beginning."""
        if self._content is None:
            left = self.length if amount is None else min(amount, self.length)
            blocks = []
            while left and (block := self._handler.rfile.read(min(_BLOCK, left))):
                blocks.append(block)
                left -= len(block)
            self._content = b"".join(blocks)
        return self._content

    def forward(self) -> Reply:
        """Return what the server answers."""
        body, front = self.receive(), self._handler.server
        if front.tokens and (refusal := self._without_token()):
            return refusal
        connection = http.client.HTTPConnection(front.upstream, timeout=60)
        connection.putrequest(self.method, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self._handler.headers.items():
            if not (front.tokens and name.lower() == "authorization"):
                connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        # The hub names its own address; the next request must come here too.
        port = front.upstream.rpartition(":")[2]
        headers = tuple(
            (name, re.sub(rf"(127\.0\.0\.1|localhost):{port}\b", front.host, value))
            for name, value in response.getheaders()
        )
        length = response.getheader("Content-Length") if self.method == "HEAD" else None
        return Reply(status=response.status, headers=headers, body=content, length=length)

    def _without_token(self) -> Reply | None:
        if self.path.startswith("/token"):
            return Reply(
                headers=(("Content-Type", "application/json"),),
                body=json.dumps({"token": "t", "expires_in": 300}).encode(),
            )
        if self.header("Authorization") == "Bearer t":
            return None
        realm = f'Bearer realm="http://{self.host}/token",service="campaign"'
        return Reply(status=401, headers=(("WWW-Authenticate", realm),))

    def send(self, reply: Reply, *, cut_after: int | None = None) -> None:
        """Answer; `cut_after` bytes of the body, the connection ends."""
        self.receive()
        self.begin(reply)
        if self.method != "HEAD":
            self.write(reply.body if cut_after is None else reply.body[:cut_after])
        if cut_after is not None:
            self.hang_up()

    def begin(self, reply: Reply) -> None:
        """Send status and headers."""
        handler = self._handler
        handler.send_response(reply.status)
        for name, value in reply.headers:
            if name.lower() not in _HOP_BY_HOP:
                handler.send_header(name, value)
        length = reply.length if reply.length is not None else str(len(reply.body))
        if length:
            handler.send_header("Content-Length", length)
        handler.end_headers()

    def write(self, content: bytes) -> None:
        """Send bytes."""
        self._handler.wfile.write(content)
        self._handler.wfile.flush()

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection; `reset` drops what was not sent yet."""
        self._handler.close_connection = True
        connection = self._handler.connection
        with suppress(OSError):
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            else:
                connection.shutdown(socket.SHUT_RDWR)

"""A package index of a few wheels on loopback, within the test's own process, that misbehaves on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What a server says instead of the truth.

    `after` is called before the first byte goes out; of what is `cut` a thousand bytes are missing.
    """

    status: int = 200
    content: bytes = b""
    kind: str = HTML
    headers: tuple[tuple[str, str], ...] = ()
    after: Callable[[], object] = lambda: None
    cut: bool = False


@dataclass
class TinyIndex:
    """The pages and files of an index. Tests change it while it runs.

    `pages` are the entries of PEP 691 by project. `faults` are answers by path, of which each is given once, in order;
    the one for `*` goes for every path, and for ever. `asked` are the paths of all requests, `spans` the ranges.
    """

    pages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    spans: list[str] = field(default_factory=list)
    ranges: bool = True
    html: bool = False
    login: str | None = None
    host: str = ""

    @property
    def url(self) -> str:
        """The index's address."""
        return f"http://{self.host}/simple/"

    def add(self, wheel: Path, **facts: Any) -> dict[str, Any]:
        """List a wheel under its project and return its entry, which may be changed."""
        content = wheel.read_bytes()
        self.files[wheel.name] = content
        entry = {
            "filename": wheel.name,
            "url": f"../../files/{wheel.name}",
            "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
            **facts,
        }
        project = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
        self.pages.setdefault(project, []).append(entry)
        return entry

    def count(self, part: str) -> int:
        """Return how many requests there were for paths that hold a text."""
        return sum(part in path for path in self.asked)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, index: TinyIndex) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.index = index

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients go away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        index = self.server.index
        index.asked.append(self.path)
        self.reply(self.fault() or self.denied() or self.truth())

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    def fault(self) -> Answer | None:
        faults = self.server.index.faults
        if faults.get(self.path):
            return faults[self.path].pop(0)
        return faults["*"][0] if "*" in faults else None

    def denied(self) -> Answer | None:
        login = self.server.index.login
        given = self.headers.get("Authorization", "")
        if login is None or given == "Basic " + base64.b64encode(login.encode()).decode():
            return None
        return Answer(status=401, headers=(("WWW-Authenticate", "Basic"),))

    def truth(self) -> Answer:
        index, (_, folder, name, *_) = self.server.index, [*self.path.split("/"), "", ""]
        if folder == "simple" and name in index.pages:
            return html_page(index.pages[name]) if index.html else json_page(index.pages[name], name)
        if folder == "files" and name in index.files:
            return self.span(index.files[name])
        return Answer(status=404, content=b"none such", kind="text/plain")

    def span(self, content: bytes) -> Answer:
        index = self.server.index
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or not index.ranges:
            return Answer(content=content, kind="application/octet-stream")
        index.spans.append(asked[0])
        first = int(asked[1]) if asked[1] else max(0, len(content) - int(asked[2]))
        last = min(len(content) - 1, int(asked[2])) if asked[1] and asked[2] else len(content) - 1
        place = ("Content-Range", f"bytes {first}-{last}/{len(content)}")
        return Answer(status=206, content=content[first : last + 1], kind="application/octet-stream", headers=(place,))

    def reply(self, answer: Answer) -> None:
        answer.after()
        self.close_connection = answer.cut
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        if not any(name == "Content-Length" for name, _ in answer.headers):
            self.send_header("Content-Length", str(len(answer.content) + 1000 * answer.cut))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)


def json_page(files: list[dict[str, Any]], name: str = "demo") -> Answer:
    """Return a page of PEP 691."""
    page = {"meta": {"api-version": "1.1"}, "name": name, "versions": [], "files": files}
    return Answer(content=json.dumps(page).encode(), kind=JSON)


def html_page(files: list[dict[str, Any]]) -> Answer:
    """Return a page as devpi writes it."""
    lines = "\n".join(
        f'<a href="{file["url"]}#sha256={file["hashes"]["sha256"]}">{file["filename"]}</a><br/>' for file in files
    )
    return Answer(content=f"<!DOCTYPE html><html><body><h1>links for x</h1>\n{lines}</body></html>".encode())


@contextmanager
def tiny_index() -> Iterator[TinyIndex]:
    """Serve an index while the block runs."""
    index = TinyIndex()
    server = _Server(index)
    index.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

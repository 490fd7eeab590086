"""A package index on loopback that serves pinned packages to uv.

uv takes a package from the first index that has it. The proxy is the first and has the pinned packages only, so they
come from their index or not at all; for all others it answers 404, and uv continues with its own indexes.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from concurrent.futures import wait
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from builder.host.concurrency import TaskGroup
from builder.remote.index.logins import without_login
from builder.remote.index.pages import JSON_PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.remote.index.index_view import IndexView
    from builder.remote.index.listing import IndexFile

# For files without upload times, to which a cut-off date does not apply.
_LONG_AGO = "1980-01-01T00:00:00Z"
_PATH = re.compile(r"/(?P<key>[0-9a-f]+)/(?:simple/(?P<project>[^/]+)/|files/(?P<sha256>[0-9a-f]{64})/[^/]+\.metadata)")
_PLAIN = "text/plain"
# uv does not retry after this status; the view has the error.
_FAILED = 400
_OK, _NOT_FOUND = 200, 404
# Retries and complete downloads may take longer than uv waits for a byte (30 s): it gets meaningless ones, blanks
# before JSON and a header before METADATA.
_QUIET_S = 3.0
_FILLING = {JSON_PAGE: b" ", _PLAIN: b"X-Patience: please\n"}


class IndexProxy(ThreadingHTTPServer):
    """Serves a view under an address with a random key."""

    daemon_threads = True
    # uv sends dozens of requests at once; one that finds the queue full takes a second longer.
    request_queue_size = 128

    def __init__(self, view: IndexView) -> None:
        """Listen on a free port of loopback."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.view = view
        self.key = secrets.token_hex(8)

    @property
    def root(self) -> str:
        """The address of the proxy, with its key."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.key}"

    @property
    def url(self) -> str:
        """The index's address, for uv."""
        return f"{self.root}/simple/"

    def file_url(self, file: IndexFile) -> str:
        """Return a file's address for uv, which requests its METADATA only."""
        return f"{self.root}/files/{file.sha256}/{file.filename}"

    def upstream(self, text: str) -> str:
        """Return a text with the proxy's addresses replaced with those of the indexes."""
        text = self.upstream_files(text)
        return re.sub(rf"{re.escape(self.root)}/simple/?([^/\s`),]*)/?", self._upstream_index, text)

    def upstream_files(self, text: str) -> str:
        """Return a text with the addresses of files replaced."""
        return re.sub(rf"{re.escape(self.root)}/files/([0-9a-f]+)/[^\s`)\"]+", self._upstream_file, text)

    def _upstream_file(self, match: re.Match[str]) -> str:
        candidate = self.view.candidates.get(match[1])
        return candidate.file.url if candidate else match[0]

    def _upstream_index(self, match: re.Match[str]) -> str:
        index = self.view.pins.index(match[1]) if match[1] else None
        if index is None:
            return "the index that it is pinned to"
        return f"{without_login(index.addresses[0].url).rstrip('/')}/{match[1]}/"

    def server_bind(self) -> None:
        """Bind without a look-up of this machine's name, which is slow in some networks."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when uv disconnects in the middle of an answer."""


@contextmanager
def running_proxy(view: IndexView) -> Iterator[IndexProxy]:
    """Serve a view while the block runs."""
    proxy = IndexProxy(view)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise the body waits for uv's acknowledgement of the head: 40 ms per answer.
    disable_nagle_algorithm = True
    server: IndexProxy

    def log_message(self, *args: object) -> None:
        """Print nothing: the console shows the progress."""

    def do_GET(self) -> None:  # http.server's name
        """Answer with a project's page, or with the METADATA of one of its files."""
        match, view = _PATH.fullmatch(self.path), self.server.view
        if match and match["key"] == self.server.key:
            project, sha256 = match["project"], match["sha256"]
            if project and view.pins.index(project):
                return self._answer(lambda: self._page(project), JSON_PAGE)
            if sha256 in view.candidates:
                return self._answer(lambda: view.metadata(sha256), _PLAIN)
        return self._reply(_NOT_FOUND, b"", _PLAIN)

    def _answer(self, make: Callable[[], bytes], kind: str) -> None:
        """Reply with the result of `make`, and send filling bytes until it is there."""
        head_sent = False
        with TaskGroup(1) as worker:
            result = worker.submit(make)
            while not wait([result], _QUIET_S).done:
                if not head_sent:
                    self._head(_OK, kind, ("Transfer-Encoding", "chunked"))
                    head_sent = True
                self._chunk(_FILLING[kind])
        error = result.exception()
        if isinstance(error, Exception):
            # After half an answer uv tries again, and then gets the failure.
            self.server.view.errors.append(error)
            self.close_connection = head_sent
            return None if head_sent else self._reply(_FAILED, str(error).encode(), _PLAIN)
        if not head_sent:
            return self._reply(_OK, result.result(), kind)
        self._chunk(result.result())
        return self._chunk(b"")

    def _page(self, project: str) -> bytes:
        entries = [self._entry(file) for file in self.server.view.files(project) or ()]
        return json.dumps({"meta": {"api-version": "1.1"}, "name": project, "files": entries}).encode()

    def _entry(self, file: IndexFile) -> dict[str, Any]:
        entry = {
            "filename": file.filename,
            "url": self.server.file_url(file),
            "hashes": {"sha256": file.sha256},
            "requires-python": file.requires_python,
            "size": file.size,
            "upload-time": file.upload_time or _LONG_AGO,
            "yanked": file.yanked or file.yanked is not None,
            "core-metadata": True,
        }
        return {name: value for name, value in entry.items() if value is not None}

    def _reply(self, status: int, content: bytes, kind: str) -> None:
        self._head(status, kind, ("Content-Length", str(len(content))))
        self.wfile.write(content)

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def _head(self, status: int, kind: str, length: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header(*length)
        # The address is new in each run, so uv could not use a cached answer.
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

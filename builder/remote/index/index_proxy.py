"""A package index on loopback that uv is sent to for tied packages: one client, one set of rules, and what was asked.

uv takes a package from the first index that knows it. The front stands first and knows the tied packages only, so
that they come from their index or not at all; for all others it answers 404, and uv goes on to its own indexes.
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.remote.index.index_view import IndexView
    from builder.remote.index.listing import IndexFile

_JSON = "application/vnd.pypi.simple.v1+json"
# Where an index has no upload times, none of its files is newer than any date: a cut-off cannot judge them.
_LONG_AGO = "1980-01-01T00:00:00Z"
_PATH = re.compile(r"/(?P<key>[0-9a-f]+)/(?:simple/(?P<project>[^/]+)/|files/(?P<sha256>[0-9a-f]{64})/[^/]+\.metadata)")
_PLAIN = "text/plain"
# uv takes such an answer for final; what was wrong is told by the shelf.
_FAILED = 400
_OK, _NOT_FOUND = 200, 404
# An index that retries, or sends whole wheels only, takes longer than uv waits for a byte (30 s): it gets some that
# mean nothing, blanks before JSON and a header before METADATA.
_QUIET_S = 3.0
_FILLING = {_JSON: b" ", _PLAIN: b"X-Patience: please\n"}


class IndexProxy(ThreadingHTTPServer):
    """Serves a shelf. Only who knows the address can ask: its path holds a random key."""

    daemon_threads = True
    # uv asks for dozens of packages at once; who finds the queue full is heard a second later.
    request_queue_size = 128

    def __init__(self, shelf: IndexView) -> None:
        """Listen on a free port of loopback."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shelf = shelf
        self.key = secrets.token_hex(8)

    @property
    def root(self) -> str:
        """The address below which everything is."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.key}"

    @property
    def url(self) -> str:
        """The index's address, for uv."""
        return f"{self.root}/simple/"

    def file_url(self, file: IndexFile) -> str:
        """Return the address under which uv sees a file; it asks it for metadata only."""
        return f"{self.root}/files/{file.sha256}/{file.filename}"

    def told(self, text: str) -> str:
        """Return what uv says of this index in terms of those that stand behind it."""
        text = re.sub(rf"{re.escape(self.root)}/files/([0-9a-f]+)/[^\s`)]+", self._file_behind, text)
        return re.sub(rf"{re.escape(self.root)}/simple/?([^/\s`),]*)/?", self._index_behind, text)

    def _file_behind(self, found: re.Match[str]) -> str:
        offer = self.shelf.offers.get(found[1])
        return offer.file.url if offer else found[0]

    def _index_behind(self, found: re.Match[str]) -> str:
        index = self.shelf.ties.index(found[1]) if found[1] else None
        if index is None:
            return "the index that it is tied to"
        return f"{without_login(index.addresses[0].url).rstrip('/')}/{found[1]}/"

    def server_bind(self) -> None:
        """Bind without looking up this machine's name, which nobody needs and some networks answer slowly."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when uv goes away in the middle of an answer."""


@contextmanager
def running_front(shelf: IndexView) -> Iterator[IndexProxy]:
    """Serve a shelf while the block runs."""
    front = IndexProxy(shelf)
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.shutdown()
        front.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the body waits until uv has acknowledged the head: forty milliseconds an answer.
    disable_nagle_algorithm = True
    server: IndexProxy

    def log_message(self, *args: object) -> None:
        """Say nothing: progress is the console's."""

    def do_GET(self) -> None:  # http.server's name
        """Answer for a project, or for the metadata of one of its files."""
        asked, shelf = _PATH.fullmatch(self.path), self.server.shelf
        if asked and asked["key"] == self.server.key:
            project, sha256 = asked["project"], asked["sha256"]
            if project and shelf.ties.index(project):
                return self._answer(lambda: self._page(project), _JSON)
            if sha256 in shelf.offers:
                return self._answer(lambda: shelf.metadata(sha256), _PLAIN)
        return self._reply(_NOT_FOUND, b"", _PLAIN)

    def _answer(self, make: Callable[[], bytes], kind: str) -> None:
        """Reply with what is made, and keep uv waiting while it is."""
        begun = False
        with TaskGroup(1) as worker:
            made = worker.submit(make)
            while not wait([made], _QUIET_S).done:
                if not begun:
                    self._head(_OK, kind, ("Transfer-Encoding", "chunked"))
                    begun = True
                self._chunk(_FILLING[kind])
        error = made.exception()
        if isinstance(error, Exception):
            # Half an answer is no answer: uv asks again, and gets the failure.
            self.server.shelf.fail(error)
            self.close_connection = begun
            return None if begun else self._reply(_FAILED, str(error).encode(), _PLAIN)
        if not begun:
            return self._reply(_OK, made.result(), kind)
        self._chunk(made.result())
        return self._chunk(b"")

    def _page(self, project: str) -> bytes:
        entries = [self._entry(file) for file in self.server.shelf.files(project) or ()]
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
        # The address changes from run to run: what uv kept of it would never be found again.
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

"""A package index on loopback that uv is sent to for tied packages: one client, one set of rules, and what was asked.

uv takes a package from the first index that knows it. The front stands first and knows the tied packages only, so
that they come from their index or not at all; for all others it answers 404, and uv goes on to its own indexes.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from builder.errors import JbuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.index.model import IndexFile
    from builder.index.shelf import Shelf

_JSON = "application/vnd.pypi.simple.v1+json"
# Where an index has no upload times, none of its files is newer than any date: a cut-off cannot judge them.
_LONG_AGO = "1980-01-01T00:00:00Z"
_PATH = re.compile(r"/(?P<key>[0-9a-f]+)/(?:simple/(?P<project>[^/]+)/|files/(?P<sha256>[0-9a-f]{64})/[^/]+\.metadata)")
# uv takes such an answer for final; what was wrong is told by the shelf.
_FAILED = 400
_OK, _NOT_FOUND = 200, 404


class Front(ThreadingHTTPServer):
    """Serves a shelf. Only who knows the address can ask: its path holds a random key."""

    daemon_threads = True

    def __init__(self, shelf: Shelf) -> None:
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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when uv goes away in the middle of an answer."""


@contextmanager
def running_front(shelf: Shelf) -> Iterator[Front]:
    """Serve a shelf while the block runs."""
    front = Front(shelf)
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.shutdown()
        front.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, *args: object) -> None:
        """Say nothing: progress is the console's."""

    def do_GET(self) -> None:  # http.server's name
        """Answer for a project, or for the metadata of one of its files."""
        asked = _PATH.fullmatch(self.path)
        if not asked or asked["key"] != self.server.key:
            self._reply(_NOT_FOUND, b"", "text/plain")
            return
        try:
            status, content, kind = self._project(asked["project"]) if asked["project"] else self._file(asked["sha256"])
        except JbuildError as error:
            self.server.shelf.fail(error)
            status, content, kind = _FAILED, error.message.encode(), "text/plain"
        self._reply(status, content, kind)

    def _project(self, project: str) -> tuple[int, bytes, str]:
        files = self.server.shelf.files(project)
        if files is None:
            return _NOT_FOUND, b"", "text/plain"
        page = {
            "meta": {"api-version": "1.1"},
            "name": project,
            "files": [self._entry(file) for file in files],
        }
        return _OK, json.dumps(page).encode(), _JSON

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

    def _file(self, sha256: str) -> tuple[int, bytes, str]:
        if sha256 not in self.server.shelf.offers:
            return _NOT_FOUND, b"", "text/plain"
        return _OK, self.server.shelf.metadata(sha256), "text/plain"

    def _reply(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        # The address changes from run to run: what uv kept of it would never be found again.
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

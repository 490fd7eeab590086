"""A simple package index on loopback, for tests of the whole command line."""

from __future__ import annotations

import hashlib
import re
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Index(ThreadingHTTPServer):
    """A simple package index of the wheels and source archives in a folder, with their hashes."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _IndexHandler)
        self.folder = folder

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients that are interrupted go away in the middle."""


class _IndexHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Index

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        _, kind, name, *_ = [*self.path.split("/"), ""]
        if kind == "files":
            self.reply(self.file(name), "application/octet-stream")
            return
        name = name.replace("-", "_")
        files = [path for path in sorted(self.server.folder.iterdir()) if path.name.split("-")[0] == name]
        lines = map(link_to, files)
        self.reply("\n".join(lines).encode() if files else None, "text/html")

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    def file(self, name: str) -> bytes | None:
        path = self.server.folder / name.removesuffix(".metadata")
        if not path.is_file():
            return None
        return metadata_of(path) if name.endswith(".metadata") else path.read_bytes()

    def reply(self, content: bytes | None, kind: str) -> None:
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if content else None
        if content and begin:
            whole, content = len(content), content[int(begin[1]) :]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin[1]}-{whole - 1}/{whole}")
        else:
            self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content or b"")


@contextmanager
def running_index(folder: Path) -> Iterator[Index]:
    """Serve the wheels of a folder."""
    server = Index(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def link_to(path: Path) -> str:
    metadata = ' data-core-metadata="true"' if path.suffix == ".whl" else ""
    return f'<a href="/files/{path.name}#sha256={sha256_of(path)}"{metadata}>{path.name}</a>'


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metadata_of(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith(".dist-info/METADATA"))

"""A model hub on loopback: the part of the hub's protocol that jbuild uses, with faults that can be switched on."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Larger files are listed with their sha256, as those in Git LFS are.
_LARGE = 4096


def weights(size: int = 64_000, fill: bytes = b"w", tensor: str = "b") -> bytes:
    """Return a safetensors file with one tensor of `size` bytes: by default the one of the second shard."""
    header = json.dumps({tensor: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + (fill * size)[:size]


def small_model() -> dict[str, bytes]:
    """Return the files of a model with two shards, and some that no server needs."""
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "tokenizer.json": b'{"model": {}}',
        "chat_template.jinja": b"{{ messages }}",
        "model.safetensors.index.json": json.dumps({"weight_map": shards}).encode(),
        "model-00001-of-00002.safetensors": weights(100_000, b"a", "a"),
        "model-00002-of-00002.safetensors": weights(200_000, b"b"),
        "pytorch_model.bin": b"\x80\x04pickle",
        "README.md": b"# read me",
        ".gitattributes": b"*.bin filter=lfs",
        "LICENSE": b"Apache License 2.0",
    }


@dataclass
class Fault:
    """What goes wrong with requests whose path contains `path`, the next `times` times."""

    path: str
    times: int = 1_000_000
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_at: float | None = None
    corrupt: bool = False
    no_ranges: bool = False


@dataclass
class Asked:
    """A request that was made."""

    method: str
    path: str
    headers: dict[str, str]


class HubStandIn:
    """Serves one model, `org/name`, at branch `main` and at one commit."""

    def __init__(self, files: dict[str, bytes], *, name: str = "org/tiny") -> None:
        self.files, self.name = files, name
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.tags = ["license:apache-2.0", "text-generation"]
        self._mutex = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @contextmanager
    def running(self) -> Iterator[HubStandIn]:
        """Serve while the block runs."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fails(self, path: str, **fault: Any) -> None:
        self.faults.append(Fault(path=path, **fault))

    def requests(self, text: str, method: str = "GET") -> list[Asked]:
        """Return the requests so far whose path contains a text."""
        return [asked for asked in self.asked if text in asked.path and asked.method == method]

    def fault(self, path: str) -> Fault:
        """Take the fault that applies to a request; without one, a fault that does nothing."""
        with self._mutex:
            for fault in self.faults:
                if fault.path in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return Fault(path="")

    def listing(self) -> dict[str, Any]:
        """Return the answer to `/api/models/{id}/revision/{revision}?blobs=true`."""
        siblings = [self._sibling(path, data) for path, data in self.files.items()]
        return {"id": self.name, "sha": COMMIT, "tags": self.tags, "siblings": siblings, "gated": False}

    @staticmethod
    def _sibling(path: str, data: bytes) -> dict[str, Any]:
        git_id = hashlib.sha1(b"blob %d\x00" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_id}
        if len(data) > _LARGE:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(_Handler):
            stand_in = hub

        return Handler


class _Handler(BaseHTTPRequestHandler):
    stand_in: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.stand_in, unquote(urlsplit(self.path).path)
        hub.asked.append(Asked(self.command, path, {name.title(): value for name, value in self.headers.items()}))
        fault = hub.fault(path)
        if fault.status is not None:
            return self._send(fault.status, fault.body or b"{}", fault.headers)
        if fault.body is not None:
            return self._send(200, fault.body, {"Content-Type": "text/html"})
        if path.startswith("/api/models/"):
            return self._list(path)
        return self._file(path, fault)

    def _list(self, path: str) -> None:
        hub = self.stand_in
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path)
        if not found or found[1] != hub.name:
            return self._send(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        if found[2] not in ("main", COMMIT):
            return self._send(404, b'{"error":"Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        return self._send(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})

    def _file(self, path: str, fault: Fault) -> None:
        hub = self.stand_in
        stored = path.startswith("/cdn/")
        name = path.removeprefix("/cdn/") if stored else path.removeprefix(f"/{hub.name}/resolve/{COMMIT}/")
        data = hub.files.get(name)
        if data is None:
            return self._send(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if len(data) > _LARGE and not stored:
            # Large files lie on another host, which must not see the token.
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            return self._send(
                302, b"", {**headers, "Location": f"http://localhost:{hub.port}/cdn/{name}?signature=secret"}
            )
        if fault.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return self._send_range(data, headers, fault)

    def _send_range(self, data: bytes, headers: dict[str, str], fault: Fault) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked or fault.no_ranges:
            return self._send(200, data, headers, fault.cut_at)
        begin = int(asked[1])
        if begin >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        end = min(int(asked[2] or len(data)), len(data) - 1)
        span = f"bytes {begin}-{end}/{len(data)}"
        return self._send(206, data[begin : end + 1], {**headers, "Content-Range": span}, fault.cut_at)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut_at: float | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut_at is not None:
            self.wfile.write(body[: int(len(body) * cut_at)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

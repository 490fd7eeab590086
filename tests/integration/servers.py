"""Servers for tests: a real registry, a front before it that misbehaves on demand, and images to push."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

import pytest

from builder.model.images import Descriptor, Image
from builder.remote.registry.registry_client import OCI_INDEX, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER = "builder"
PASSWORD = "hush"
# bcrypt of PASSWORD, the only kind of hash that the registry takes.
_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuulzd.YqjLDl8lvpSmVj3De/fioSBHnUa\n"
_STARTS_WITHIN_S = 20.0
_BLOCK = 1 << 16


def free_port() -> int:
    """Return a port of loopback on which nothing listens, of a range from which the kernel never chooses by itself."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """A running registry; `storage` is the folder of its file system driver."""

    host: str
    storage: Path

    def request(self, path: str, *, user: str | None = None) -> tuple[int, dict[str, str], bytes]:
        """Ask it without any code of jbuild."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        headers = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}, application/vnd.docker.distribution.manifest.v2+json"}
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), content

    def tags(self, repository: str, *, user: str | None = None, evidence: bool = False) -> dict[str, str]:
        """Return the digest that each tag is on: those of people, or those of what lies beside images."""
        status, _, content = self.request(f"/v2/{repository}/tags/list", user=user)
        names = (json.loads(content)["tags"] or []) if status == 200 else []
        found = {}
        for name in (each for each in names if each.startswith("sha256-") == evidence):
            _, headers, _ = self.request(f"/v2/{repository}/manifests/{name}", user=user)
            found[name] = headers["Docker-Content-Digest"]
        return found


@contextmanager
def running_registry(folder: Path, *, locked: bool = False) -> Iterator[Registry]:
    """Run `docker-registry` on a free port with its data in `folder`; `locked` asks for USER and PASSWORD."""
    program = shutil.which("docker-registry")
    if not program:
        pytest.skip("docker-registry is not installed")
    port, storage = free_port(), folder / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(_HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if locked:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _await_port(port, child)
        yield Registry(host=f"127.0.0.1:{port}", storage=storage)
    finally:
        child.kill()
        child.wait()


def _await_port(port: int, child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < until and child.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the registry does not listen on port {port}")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that is open to everybody."""
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def locked_registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that asks for USER and PASSWORD."""
    with running_registry(tmp_path / "locked", locked=True) as running:
        yield running


def make_image(
    layout: Path,
    *,
    sizes: tuple[int, ...] = (300_000, 70_000, 1_000),
    contents: tuple[bytes, ...] = (),
    architecture: str = "arm64",
    labels: tuple[tuple[str, str], ...] = (),
) -> Image:
    """Put an image with layers of random bytes (not real tar files), or with these contents, into an OCI layout."""
    found = contents or tuple(os.urandom(size) for size in sizes)
    layers = tuple(_blob(layout, content, "application/vnd.oci.image.layer.v1.tar+gzip") for content in found)
    config = {
        "os": "linux",
        "architecture": architecture,
        "config": {"Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    configuration = _blob(layout, _json(config), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _entry(configuration),
        "layers": [_entry(layer) for layer in layers],
    }
    return Image(
        platform=f"linux/{architecture}",
        manifest=_blob(layout, _json(manifest), OCI_MANIFEST),
        config=configuration,
        layers=layers,
        labels=labels,
    )


def _blob(layout: Path, content: bytes, media_type: str) -> Descriptor:
    name = hashlib.sha256(content).hexdigest()
    path = layout / "blobs" / "sha256" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Descriptor(media_type=media_type, digest=f"sha256:{name}", size=len(content))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _entry(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


@dataclass(kw_only=True)
class Fault:
    """What a front does wrong to requests whose `METHOD path` matches, `times` times (None: always).

    `answer`: reply `status` without asking the registry; `{path}` in a header is the request's.
    `cut`: close the connection after `after` bytes of the
    request's body (`cut-answer`: of the answer's). `forward-then-cut`: let the registry do it, but never say so.
    `delay`: wait `seconds`, then forward. `swap`: forward, then reply with `body` for what the registry said.
    """

    match: str
    kind: Literal["answer", "cut", "cut-answer", "forward-then-cut", "delay", "swap"]
    times: int | None = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int = 0
    seconds: float = 0.0


class Front(ThreadingHTTPServer):
    """Forwards to a registry, except where a fault says otherwise. With `tokens` it asks for Bearer tokens itself."""

    daemon_threads = True

    def __init__(self, upstream: str, *faults: Fault, tls: ssl.SSLContext | None = None, tokens: bool = False) -> None:
        """Listen on a free port of loopback."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.tokens = upstream, tokens
        self.faults = [replace(fault) for fault in faults]
        self.log: list[str] = []
        self.bytes_in = 0
        self.issued: dict[str, str] = {}
        self.mutex = threading.Lock()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def fault_for(self, line: str) -> Fault | None:
        """Take the first fault that is left for a request."""
        with self.mutex:
            self.log.append(line)
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.match, line):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def asked(self, pattern: str) -> int:
        """Count the requests that match."""
        return sum(bool(re.search(pattern, line)) for line in self.log)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: cut connections are the point."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, *args: object) -> None:
        pass

    def handle_one(self) -> None:
        fault = self.server.fault_for(f"{self.command} {self.path}")
        if self.path.startswith("/token"):
            self._give_token()
        elif self.server.tokens and not self._has_token():
            self._challenge()
        elif fault is None:
            self._forward()
        elif fault.kind == "answer":
            self._drain(None)
            headers = {name: value.replace("{path}", self.path) for name, value in fault.headers.items()}
            self._reply(fault.status, headers, fault.body)
        elif fault.kind == "cut":
            self._forward(cut_body_after=fault.after)
        elif fault.kind == "cut-answer":
            self._forward(cut_answer_after=fault.after)
        elif fault.kind == "forward-then-cut":
            self._forward(cut_answer_after=-1)
        elif fault.kind == "swap":
            self._forward(swap=fault)
        else:
            time.sleep(fault.seconds)
            self._forward()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815  # http.server's names

    def _forward(
        self, *, cut_body_after: int | None = None, cut_answer_after: int | None = None, swap: Fault | None = None
    ) -> None:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if not (self.server.tokens and name == "Authorization"):
                connection.putheader(name, value)
        connection.endheaders()
        if not self._drain(connection, cut_body_after):
            connection.close()
            self._hang_up()
            return
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if cut_answer_after == -1:
            self._hang_up()
        elif swap:
            self._reply(response.status, {**dict(response.getheaders()), **swap.headers}, swap.body or content)
        else:
            self._reply(response.status, dict(response.getheaders()), content, cut_answer_after)

    def _drain(self, connection: http.client.HTTPConnection | None, cut_after: int | None = None) -> bool:
        left, taken = int(self.headers.get("Content-Length") or 0), 0
        while left:
            block = self.rfile.read(min(_BLOCK, left))
            if not block:
                return False
            left, taken = left - len(block), taken + len(block)
            with self.server.mutex:
                self.server.bytes_in += len(block)
            if connection:
                connection.send(block)
            if cut_after is not None and taken >= cut_after:
                return False
        return cut_after is None

    def _reply(self, status: int, headers: dict[str, str], content: bytes, cut_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut_after is None else content[:cut_after])
        if cut_after is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _challenge(self) -> None:
        self._drain(None)
        scheme = "https" if isinstance(self.server.socket, ssl.SSLSocket) else "http"
        realm = f'Bearer realm="{scheme}://{self.headers["Host"]}/token",service="test"'
        self._reply(401, {"WWW-Authenticate": realm}, b"")

    def _has_token(self) -> bool:
        scope = self.server.issued.get(self.headers.get("Authorization", "").removeprefix("Bearer "), "")
        repository = re.fullmatch(r"/v2/(.+?)/(?:blobs|manifests|tags)/.*", self.path)
        right = "pull" if self.command in ("GET", "HEAD") else "push"
        wanted = rf"repository:{re.escape(repository[1])}:[a-z,]*{right}" if repository else ""
        return bool(scope) and bool(re.search(wanted, scope))

    def _give_token(self) -> None:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        query = parse_qs(urlsplit(self.path).query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        form = parse_qs(body)
        if self.headers.get("Authorization") != expected and form.get("refresh_token") != [PASSWORD]:
            self._reply(401, {}, b'{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}')
            return
        token = f"token{len(self.server.issued)}"
        self.server.issued[token] = " ".join((query or form).get("scope", []))
        self._reply(200, {"Content-Type": "application/json"}, _json({"token": token, "expires_in": 300}))


@contextmanager
def running_front(
    upstream: Registry, *faults: Fault, tls: ssl.SSLContext | None = None, tokens: bool = False
) -> Iterator[Front]:
    """Run a front before a registry."""
    server = Front(upstream.host, *faults, tls=tls, tokens=tokens)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def unknown_authority(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """Make a self-signed certificate for a host name; return a server's context and the certificate's file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}"
    files = ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate

"""A registry client whose servers are scripts, and a script that keeps uploads."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import BaseAdapter

from builder.host.config import Config
from builder.remote.http import Retry, session
from builder.remote.registry.registry_client import RegistryClient
from builder.remote.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.remote.registry.auth import Credentials

    Script = Callable[[requests.PreparedRequest], "tuple[int, dict[str, str], bytes]"]

HOST = "r.example.com"


class Scripted(BaseAdapter):
    """Answers as a script says, and keeps the requests."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script, self.seen = script, list[requests.PreparedRequest]()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.seen.append(request)
        response = requests.Response()
        response.request, response.url = request, request.url or ""
        response.status_code, headers, content = self.script(request)
        response.headers.update(headers)
        response.raw = io.BytesIO(content)
        return response

    def close(self) -> None:
        pass


def always(status: int, headers: dict[str, str], content: bytes) -> Script:
    return lambda _: (status, headers, content)


def client(script: Script, credentials: Credentials | None = None) -> tuple[RegistryClient, Scripted]:
    adapter, http = Scripted(script), session(Config())
    http.mount("https://", adapter)
    http.mount("http://", adapter)
    transport = Transport(HOST, http, lambda: credentials, retry=Retry(sleep=lambda _: None))
    return RegistryClient(transport), adapter


class Store:
    """A registry that keeps what it got of a broken upload, as the specification allows."""

    def __init__(self, *cuts: int, location: str = "/upload/1?_state=x") -> None:
        self.cuts, self.location = list(cuts), location
        self.kept, self.done = b"", False
        self.ranges: list[str | None] = []

    def __call__(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        if request.method == "POST":
            self.kept = b""
            return 202, {"Location": self.location}, b""
        if request.method == "HEAD":
            return (200, {"Content-Length": str(len(self.kept))}, b"") if self.done else (404, {}, b"")
        if request.method == "GET":
            return 204, {"Location": self.location, "Range": f"0-{len(self.kept) - 1}"}, b""
        return self.take(request)

    def take(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        self.ranges.append(request.headers.get("Content-Range"))
        body: Any = request.body
        content = body.read(int(request.headers["Content-Length"])) if body else b""
        if self.cuts:
            self.kept += content[: self.cuts.pop(0)]
            raise requests.ConnectionError
        self.kept, self.done = self.kept + content, True
        return 201, {}, b""

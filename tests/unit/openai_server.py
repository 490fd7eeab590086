"""A server on loopback that speaks as an OpenAI server does, and has no model."""

from __future__ import annotations

import http.server
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from builder.device.load_client import Load
from builder.remote.openai import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


LOAD = Load(prompts=4, input_length=5, output_tokens=3, within_s=5)


class Stand(http.server.ThreadingHTTPServer):
    """A stand-in for an OpenAI server; it has no model. It counts what is asked of it, and how much at once."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Any, dict[str, Any]], None], key: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.key = answer, key
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.open = self.most_open = 0
        self.mutex = threading.Lock()
        self.models: Any = {"data": [{"id": "tiny", "root": "/models/tiny"}]}

    def handle_error(self, *_: object) -> None:
        """A client that gives up is no error of the server's."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stand

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self.reply(401, {"error": "Unauthorized"})
        else:
            self.reply(200 if self.path.endswith(("/v1/models", "/health")) else 404, self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.mutex:
            self.server.bodies.append(body)
            self.server.open += 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        try:
            self.server.answer(self, body)
        finally:
            with self.server.mutex:
                self.server.open -= 1

    def reply(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, event: object) -> None:
        self.send(f"data: {json.dumps(event)}\n\n")


def stream(handler: Handler, body: dict[str, Any]) -> None:
    """Send as many tokens as asked for, 20 ms apart, and what they were."""
    handler.begin()
    handler.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    for _ in range(body["max_tokens"]):
        time.sleep(0.02)
        handler.event({"choices": [{"delta": {"content": "x"}}]})
    handler.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": body["max_tokens"]}})
    handler.send("data: [DONE]\n\n")
    handler.send("")


@contextmanager
def running(answer: Callable[[Any, dict[str, Any]], None] = stream, key: str | None = None) -> Iterator[Stand]:
    server = Stand(answer, key)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def at(server: Stand, **settings: Any) -> OpenAIServer:
    return OpenAIServer(url=f"http://127.0.0.1:{server.server_address[1]}", **settings)

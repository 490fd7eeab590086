"""A stand-in for an OpenAI server, for tests of the smoke runner: no model, one canned answer, faults on demand.

Runs as PID 1 of a test image, standard library only. STAND_IN_FAULT names the fault.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NoReturn

FAULT = os.environ.get("STAND_IN_FAULT", "")
MODEL = os.environ.get("STAND_IN_MODEL", "tiny")
PORT = int(os.environ.get("JBUILD_PORT", "8000"))
KEY = os.environ.get("VLLM_API_KEY", "")
WORDS = ["The capital of France ", "is ", "Paris."]


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(503 if FAULT == "never-ready" else 200, {})
        elif KEY and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": "other" if FAULT == "wrong-name" else MODEL}]})
        else:
            self.reply(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        say(f"question {body['messages'][-1]['content']!r} temperature {body['temperature']} stream {body['stream']}")
        if FAULT == "refuses":
            self.reply(500, {"error": {"message": "EngineCore encountered an issue"}})
            return
        if FAULT == "crashes-while-answering":
            os._exit(139)
        if FAULT == "out-of-memory":
            hoard()
        self.stream(["x9$ ", "zzz"] if FAULT == "garbage" else WORDS)
        if FAULT == "crashes-after-answer":
            threading.Timer(0.2, os._exit, [7]).start()

    def stream(self, words: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for word in words:
            time.sleep(30 if FAULT == "hangs" else 0.6 if FAULT == "slow" else 0.05)
            self.event({"choices": [{"delta": {"content": word}}]})
        self.event({"choices": [], "usage": {"completion_tokens": len(words)}})
        if FAULT != "cuts-stream":
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, data: dict[str, object]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def reply(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def hoard() -> NoReturn:
    held: list[bytearray] = []
    while True:
        held.append(bytearray(os.urandom(1 << 20) * 8))


def main() -> None:
    say("\x1b[32mstand-in\x1b[0m starting")
    if FAULT == "exits":
        say("ImportError: libnuma.so.1: cannot open shared object file: No such file or directory")
        sys.exit(3)
    if FAULT == "out-of-memory-at-start":
        hoard()
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
    code = 5 if FAULT == "unclean-stop" else 143 if FAULT == "killed-by-term" else 0

    def stop(number: int, frame: object) -> None:
        if FAULT == "ignores-term":
            say("SIGTERM? not now")
            return
        os._exit(code)

    signal.signal(signal.SIGTERM, stop)
    say("stand-in ready")
    server.serve_forever()


if __name__ == "__main__":
    main()

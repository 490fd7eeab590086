"""A stand-in for an OpenAI server, for tests of the smoke runner: no model, one canned answer, faults on demand.

Runs as PID 1 of a test image, standard library only. STAND_IN_FAULT names the fault.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

FAULT = os.environ.get("STAND_IN_FAULT", "")
MODEL = os.environ.get("STAND_IN_MODEL", "tiny")
PORT = int(os.environ.get("JBUILD_PORT", "8000"))
KEY = next((word[10:] for word in sys.argv if word.startswith("--api-key=")), os.environ.get("VLLM_API_KEY", ""))
SHIFT = float(os.environ.get("STAND_IN_SHIFT", "0"))
WORDS = ["The capital of France ", "is ", "Paris."]
SCHEMA_WORDS = ['{"city": ', '"Paris"', "}"]


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(503 if FAULT in ("never-ready", "hangs-at-start") else 200, {})
        elif self.path == "/metrics":
            samples = "no samples here" if FAULT == "bad-metrics" else 'vllm:generation_tokens_total{engine="0"} 3.0'
            self.send("text/plain", f"# TYPE vllm:generation_tokens counter\n{samples}\n".encode())
        elif self.is_stranger():
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": "other" if FAULT == "wrong-name" else MODEL}]})
        else:
            self.reply(404, {"error": "not found"})

    def is_stranger(self) -> bool:
        return bool(KEY) and FAULT != "open-to-all" and self.headers.get("Authorization") != f"Bearer {KEY}"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_stranger():
            self.reply(401, {"error": "Unauthorized"})
            return
        asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        say(f"question {asked!r} temperature {body['temperature']} stream {body['stream']}")
        if FAULT == "refuses":
            self.reply(500, {"error": {"message": "EngineCore encountered an issue"}})
            return
        if FAULT == "crashes-while-answering":
            os._exit(139)
        if FAULT == "out-of-memory":
            hoard()
        if FAULT == "loses-child":
            lose_child()
            self.reply(500, {"error": {"message": "EngineCore died"}})
            return
        if FAULT == "error-in-log":
            say("(EngineCore pid=7) ERROR 11-24 10:00:00 [core.py:12] a block was freed twice")
        words = ["x9$ ", "zzz"] if FAULT == "garbage" else SCHEMA_WORDS if "response_format" in body else WORDS
        words = words * 200 if FAULT == "endless" else words
        (self.stream if body["stream"] else self.whole)(words, body)
        if FAULT == "crashes-after-answer":
            threading.Timer(0.2, os._exit, [7]).start()

    def whole(self, words: list[str], body: dict[str, object]) -> None:
        text = "".join(words) + ("?" if FAULT == "streams-otherwise" else "")
        said = {"message": {"content": text}} if "messages" in body else {"text": text}
        self.reply(200, {"choices": [said], "usage": {"completion_tokens": len(words)}})

    def stream(self, words: list[str], body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        chat = "messages" in body
        if chat:
            self.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for word in words:
            time.sleep(30 if FAULT == "hangs" else 2 if FAULT == "slow" else 0.05)
            said: dict[str, object] = {"delta": {"content": word}} if chat else {"text": word}
            if body.get("logprobs"):
                said["logprobs"] = chat_logprobs(word) if chat else plain_logprobs(word)
            self.event({"choices": [said]})
        self.event({"choices": [], "usage": {"completion_tokens": len(words)}})
        if FAULT != "cuts-stream":
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, data: dict[str, object]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def reply(self, status: int, body: dict[str, object]) -> None:
        self.send("application/json", json.dumps(body).encode(), status)

    def send(self, kind: str, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """As vLLM's own server does, it says nothing of clients that hang up."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def top(word: str) -> list[tuple[str, float]]:
    """A chosen token and the next likely one; garbage is as likely as anything."""
    chosen = -0.1 + SHIFT
    return [(word, -9.0 if FAULT == "garbage" else chosen), ("other", -3.0)]


def chat_logprobs(word: str) -> dict[str, object]:
    named = [{"token": token, "logprob": logprob} for token, logprob in top(word)]
    return {"content": [{**named[0], "top_logprobs": named}]}


def plain_logprobs(word: str) -> dict[str, object]:
    return {"tokens": [word], "token_logprobs": [top(word)[0][1]], "top_logprobs": [dict(top(word))]}


def hoard() -> NoReturn:
    held: list[bytearray] = []
    while True:
        held.append(bytearray(os.urandom(1 << 20) * 8))


def lose_child() -> None:
    """Let the kernel kill a child for want of memory, as it does with vLLM's engine; this process lives on."""
    child = os.fork()
    if child == 0:
        Path("/proc/self/oom_score_adj").write_text("1000")
        hoard()
    os.waitpid(child, 0)


def chatter() -> NoReturn:
    while True:
        say("loading weights")
        time.sleep(0.2)


def compile_graph() -> None:
    """Compile as vLLM does: once for each cache, or at every start; the words are vLLM's."""
    when = os.environ.get("STAND_IN_COMPILES", "")
    if not when:
        return
    key = "4f1a9c0e" if when == "once" else str(time.time_ns())
    graph = Path(os.environ["VLLM_CACHE_ROOT"], "torch_compile_cache", "torch_aot_compile", key, "rank_0_0", "model")
    if graph.exists():
        say(f"INFO Directly load AOT compilation from path {graph}")
        return
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"a graph" * 1000)
    graph.with_name("model.lock").write_bytes(b"")
    say("INFO Compiling a graph for compile range (1, 2048) takes 0.10 s")


def inspect_model() -> None:
    """Inspect the model's class, if this release has a registry."""
    with suppress(ImportError):
        registry = importlib.import_module("vllm.model_executor.models.registry")
        registry.ModelRegistry.models["LlamaForCausalLM"].inspect_model_cls()


def main() -> None:
    say("\x1b[32mstand-in\x1b[0m starting")
    inspect_model()
    compile_graph()
    if FAULT == "never-ready":
        threading.Thread(target=chatter, daemon=True).start()
    if FAULT == "ends-well":
        sys.exit(0)
    if FAULT == "exits":
        say("ImportError: libnuma.so.1: cannot open shared object file: No such file or directory")
        sys.exit(3)
    if FAULT == "out-of-memory-at-start":
        hoard()
    server = Server(("0.0.0.0", PORT), Handler)
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

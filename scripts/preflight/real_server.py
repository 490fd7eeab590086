"""Starts a real vLLM server on the CPU, and says whether it got ready and answered."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.models.preflight.arguments import server_arguments

if TYPE_CHECKING:
    from pathlib import Path

    from preflight.cases import Case

_READY_WITHIN_S = 300.0
_ANSWER_WITHIN_S = 60.0
_STOP_WITHIN_S = 30.0
# The last line of an error in the log; lines of the loggers come before it.
_CAUSE = re.compile(r"(?:^|\s)((?:[A-Za-z_.]*Error|[A-Za-z]*Exception|vllm: error|vllm serve: error): .*)")
# pydantic has the reason on a line of its own.
_VALUE = re.compile(r"Value error, (.*?)(?: \[type=.*)?$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What a real server did: whether it got ready, whether it answered, after how many seconds, and why not."""

    starts: bool
    answers: bool
    seconds: float
    cause: str = ""


def start(case: Case, model: Path, python: Path, cache: Path, log: Path) -> Truth:
    """Start the server of a case, ask its question if it gets ready, and end it."""
    port, began = _free_port(), time.monotonic()
    command = [
        *(str(python.with_name("vllm")), "serve", str(model), "--host=127.0.0.1", f"--port={port}"),
        *(() if "--served-model-name" in case.arguments else ("--served-model-name=m",)),
        *server_arguments(case.server),
    ]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_CACHE_ROOT": str(cache),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        **case.environment,
    }
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as output:
        server = subprocess.Popen(  # the command is ours
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ready = _wait(server, port)
            answer = _ask(case, port) if ready and case.question != "none" else ""
        finally:
            _end(server)
    cause = answer if ready else cause_of(log)
    return Truth(starts=ready, answers=ready and not answer, seconds=round(time.monotonic() - began, 1), cause=cause)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                return bool(answer.status == 200)  # noqa: PLR2004
        except OSError:
            time.sleep(0.5)
    return False


def _ask(case: Case, port: int) -> str:
    """Ask the case's question; return "" for an answer, else the refusal."""
    body: dict[str, Any] = {"model": "m", "max_tokens": 4, "temperature": 0}
    if case.question == "prompt":
        path, body["prompt"] = "completions", "The capital of France is"
    else:
        path, body["messages"] = "chat/completions", [{"role": "user", "content": "Are you there?"}]
    request = urllib.request.Request(  # the address is ours
        f"http://127.0.0.1:{port}/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_WITHIN_S) as answer:  # noqa: S310
            return "" if json.load(answer).get("choices") else "no choices"
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read(300).decode(errors='replace')}"
    except OSError as error:
        return str(error)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and all processes of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            continue
    server.wait()


def cause_of(log: Path) -> str:
    """Return the reason in the log of a server that did not start."""
    lines = log.read_text(errors="replace").splitlines()
    for pattern in (_VALUE, _CAUSE):
        causes = [match[1] for line in lines if (match := pattern.search(line))]
        if cause := next((cause for cause in reversed(causes) if "Engine core" not in cause), None):
            return cause
    return "no error in the log"

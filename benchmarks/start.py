"""Starts an image and its warm image in turns, and compares the times to ready and to the first token.

`benchmarks/start.py COLD WARM --results FILE` needs Docker and Python's standard library only, so that it runs on a
machine with nothing else; each run is a line of FILE. `--report FILE` writes the section of docs/benchmarks.md. Every
start is in a new container with an empty cache.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shlex
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from sections import machine, write_section

_POLL_S = 0.1
_READY_WITHIN_S = 900
_QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 16,
    "temperature": 0,
    "stream": True,
}
_MEASURES = {"ready_s": "ready", "first_token_s": "the first token"}


def main() -> int:
    """Measure, or write the section; the exit code is 1 if a start failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="*", metavar="COLD WARM", help="names of the two images in the engine")
    parser.add_argument("--results", type=Path, help="file that gets a line a run")
    parser.add_argument("--runs", type=int, default=5, help="starts of each image (default: 5)")
    parser.add_argument("--options", default="-p 127.0.0.1:8000:8000", help="options of `docker run`, as one word")
    parser.add_argument("--address", default="127.0.0.1:8000", help="the server's HOST:PORT")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the section from the results")
    parser.add_argument("--note", default="", help="what else the page should say of the machine, such as its GPU")
    parser.add_argument("--about", default="", help="a sentence of the section about the images")
    options = parser.parse_args()
    if options.report:
        _report(options.report, options.about)
        return 0
    if len(options.images) != 2 or not options.results:  # noqa: PLR2004  # the cold one and the warm one
        parser.error("name the two images, and --results")
    for _ in range(options.runs):
        for kind, image in zip(("cold", "warm"), options.images, strict=True):
            where = ", ".join(filter(None, (machine(), options.note)))
            run = {"kind": kind, "machine": where, **_start(image, options.options, options.address)}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            print(f"{kind}: ready after {run['ready_s']:.1f} s, first token {run['first_token_s']:.1f} s", flush=True)
    return 0


def _start(image: str, options: str, address: str) -> dict[str, Any]:
    """Start a container, ask it one question, remove it, and return seconds from its start, and the answer."""
    name = f"jbuild-start-{uuid.uuid4().hex[:8]}"
    began = time.monotonic()
    _docker("run", "--detach", "--name", name, *shlex.split(options), image)
    try:
        _wait_until_ready(name, address)
        ready_s = time.monotonic() - began
        answer, first_token_s = _first_token(address, began)
        log = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)
    compiled = [line for line in log.stderr.splitlines() if line.startswith("jbuild: ") and "cached file" in line]
    return {"ready_s": ready_s, "first_token_s": first_token_s, "answer": answer, "said": compiled}


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _wait_until_ready(name: str, address: str) -> None:
    until = time.monotonic() + _READY_WITHIN_S
    while not _is_healthy(address):
        if _docker("inspect", "--format", "{{.State.Running}}", name) != "true" or time.monotonic() > until:
            log = subprocess.run(["docker", "logs", "--tail", "30", name], capture_output=True, text=True, check=False)
            raise SystemExit(f"the server did not become ready:\n{log.stdout}{log.stderr}")
        time.sleep(_POLL_S)


def _is_healthy(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()


def _first_token(address: str, began: float) -> tuple[str, float]:
    """Return the answer to one question, and the seconds from `began` to its first token."""
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request("GET", "/v1/models")
    model = json.load(connection.getresponse())["data"][0]["id"]
    body = json.dumps({**_QUESTION, "model": model})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    words, first_s = [], 0.0
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        text = json.loads(line[6:])["choices"][0]["delta"].get("content")
        if text and not first_s:
            first_s = time.monotonic() - began
        words.append(text or "")
    connection.close()
    return "".join(words), first_s


def _report(results: Path, about: str) -> None:
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    lines = [
        f"`benchmarks/start.py COLD WARM`, {rows[0]['machine']}.",
        *([about] if about else []),
        "Each start is in a new container with an empty cache. Medians; in brackets, the fastest and the slowest run.",
        "",
        "| seconds from the container's start to | cold | warm | ratio |",
        "|---|--:|--:|--:|",
    ]
    for key, words in _MEASURES.items():
        times = {kind: [row[key] for row in rows if row["kind"] == kind] for kind in ("cold", "warm")}
        cold, warm = statistics.median(times["cold"]), statistics.median(times["warm"])
        lines.append(f"| {words} | {_text(times['cold'])} | {_text(times['warm'])} | {warm / cold:.2f} |")
    answers = {row["answer"] for row in rows}
    same = "All answers are the same" if len(answers) == 1 else f"There are {len(answers)} different answers"
    counts = ", ".join(f"{sum(row['kind'] == kind for row in rows)} {kind}" for kind in ("cold", "warm"))
    lines += ["", f"{len(rows)} starts: {counts}. {same}."]
    write_section("Starting", "\n".join(lines))


def _text(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    sys.exit(main())

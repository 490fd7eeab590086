"""Runs in the container, standard library only: has the loader open every file with all its symbols resolved.

Reads a request (JSON: `imports`, modules to import first; `files`, absolute paths; `limit_s`) and writes one JSON line
a file to standard output: {"file": …, "error": null or text}. Every file is opened by a process of its own, forked from
one that has made the imports, so that no file profits from another.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
from pathlib import Path

_READ = 1 << 16


def main() -> int:
    """Answer the request in the file named on the command line."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for name in request["imports"]:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  # whatever an import may raise is an answer too
            _say({"import": name, "error": f"{type(error).__name__}: {error}"})
            return 0
    for path in request["files"]:
        _say({"file": path, "error": _open(path, request["limit_s"])})
    return 0


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _open(path: str, limit_s: float) -> str | None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, _dlopen(path).encode(errors="replace")[:_READ])
        # Nothing of the imported modules may run its clean-up here.
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], limit_s)
    said = os.read(reader, _READ).decode(errors="replace") if ready else ""
    os.close(reader)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if said:
        return None if said == "ok" else said
    return f"no answer within {limit_s} s" if not ready else f"ended by {_ending(status)}"


def _dlopen(path: str) -> str:
    # What an initialiser prints must not stand among the answers.
    os.dup2(2, 1)
    try:
        ctypes.CDLL(path, mode=os.RTLD_NOW)
    except OSError as error:
        return str(error) or "failed without a word"
    return "ok"


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    sys.exit(main())

"""Runs in the container, standard library only: has the loader open every file with all its symbols resolved.

Reads a request (JSON: `imports`, modules to import first; `files`, absolute paths; `limit_s` for each file and
`imports_limit_s` for all imports, in seconds) and writes one JSON line a file to standard output: {"file": …, "error":
null or text}; or one line only, {"import": …, "error": …}. Every file is opened by a process of its own, forked from
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
from typing import Any

_READ = 1 << 16
_OK = "ok"


def main() -> int:
    """Answer the request in the file named on the command line."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(request, writer)
        os._exit(0)
    os.close(writer)
    said = _await(child, reader, request["imports_limit_s"])
    if said != _OK:
        _say({"import": ", ".join(request["imports"]), "error": said})
    return 0


def _answer(request: dict[str, Any], ready: int) -> None:
    """Import, say so, then have the files opened."""
    for name in request["imports"]:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  # whatever an import may raise is an answer too
            os.write(ready, f"{type(error).__name__}: {error}".encode(errors="replace")[:_READ])
            return
    os.write(ready, _OK.encode())
    for path in request["files"]:
        _say({"file": path, "error": _open(path, request["limit_s"])})


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
    said = _await(child, reader, limit_s)
    return None if said == _OK else said


def _await(child: int, reader: int, limit_s: float) -> str:
    """Wait for a child's first word and for its end; one that ends without a word, or stays silent, is told."""
    ready, _, _ = select.select([reader], [], [], limit_s)
    said = os.read(reader, _READ).decode(errors="replace") if ready else ""
    os.close(reader)
    if not ready:
        # Nothing less ends a process that an emulator has got stuck with.
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return said or (f"ended by {_ending(status)}" if ready else f"no answer within {limit_s} s")


def _dlopen(path: str) -> str:
    # What an initialiser prints must not stand among the answers.
    os.dup2(2, 1)
    try:
        ctypes.CDLL(path, mode=os.RTLD_NOW)
    except OSError as error:
        return str(error) or "failed without a word"
    return _OK


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    sys.exit(main())

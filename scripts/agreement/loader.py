"""Runs in the container, with the standard library only: the loader opens every file and resolves all its symbols.

The program reads a request (JSON: `imports`, modules to import first; `files`, absolute paths; `limit_s` for each file
and `imports_limit_s` for all imports, in seconds) and writes one JSON line per file to standard output: {"file": …,
"error": null or text}. If an import fails, it writes only the line {"import": …, "error": …}. A separate process opens
each file, forked from a process with the imports, so that a file cannot use the libraries of another one.
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
    """Process the request in the file that the command line names."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _process(request, writer)
        os._exit(0)
    os.close(writer)
    output = _await(child, reader, request["imports_limit_s"])
    if output != _OK:
        _write({"import": ", ".join(request["imports"]), "error": output})
    return 0


def _process(request: dict[str, Any], ready: int) -> None:
    """Import the modules, report the success, then open the files."""
    for name in request["imports"]:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  # every exception of an import is a result
            os.write(ready, f"{type(error).__name__}: {error}".encode(errors="replace")[:_READ])
            return
    os.write(ready, _OK.encode())
    for path in request["files"]:
        _write({"file": path, "error": _open(path, request["limit_s"])})


def _write(result: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def _open(path: str, limit_s: float) -> str | None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, _dlopen(path).encode(errors="replace")[:_READ])
        # The clean-up of imported modules must not run here.
        os._exit(0)
    os.close(writer)
    output = _await(child, reader, limit_s)
    return None if output == _OK else output


def _await(child: int, reader: int, limit_s: float) -> str:
    """Wait for the output and the end of a child; return its output, or an error if it ended or hung without output."""
    ready, _, _ = select.select([reader], [], [], limit_s)
    output = os.read(reader, _READ).decode(errors="replace") if ready else ""
    os.close(reader)
    if not ready:
        # Only SIGKILL ends a process that hangs in an emulator.
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return output or (f"ended by {_ending(status)}" if ready else f"no answer within {limit_s} s")


def _dlopen(path: str) -> str:
    # The output of an initialiser must not mix with the results.
    os.dup2(2, 1)
    try:
        ctypes.CDLL(path, mode=os.RTLD_NOW)
    except OSError as error:
        return str(error) or "failed without a message"
    return _OK


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    sys.exit(main())

"""Loads every extension module of this Python in its own process, and reports the modules that do not load.

Runs inside images on Python 3.8 and later, with the standard library only. A module is opened after torch, as in use,
with all its symbols resolved (RTLD_NOW). If that fails, it is imported by name too, since some packages prepare their
own libraries. `--driver` names libraries (globs) of NVIDIA's runtime: modules that lack one of them, directly or
through a library, are reported separately, since they need a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import importlib
import importlib.machinery
import json
import os
import re
import select
import signal
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_WITHIN_S = 300
_READ = 4096
_SAY_EVERY = 100
_TAGGED = tuple(suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES if suffix != ".so")
_MISSING = re.compile(r"(\S+): cannot open shared object file")


def main() -> None:
    """Try all modules and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", action="append", default=[], metavar="GLOB", help="a library of the GPU's driver")
    parser.add_argument("folders", nargs="*", type=Path, help="where to look; default: where packages are installed")
    arguments = parser.parse_args()
    folders = arguments.folders or sorted({Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")})
    sys.path[:0] = [str(folder) for folder in arguments.folders]
    torch = _import("torch")
    modules = [(folder, path) for folder in folders for path in extensions(folder)]
    loaded, driver, broken = 0, [], [] if torch in (None, "absent") else [{"file": "import torch", "error": torch}]
    for count, (folder, path) in enumerate(modules):
        if count % _SAY_EVERY == 0:
            sys.stderr.write(f"{count} of {len(modules)} extension modules tried\n")
            sys.stderr.flush()
        name, error = str(path.relative_to(folder)), attempt(folder, path)
        library = needed_driver(error or "", arguments.driver)
        if error is None:
            loaded += 1
        elif library:
            driver.append({"file": name, "library": library})
        else:
            broken.append({"file": name, "error": error})
    report: dict[str, Any] = {"loaded": loaded, "driver": driver, "broken": broken}
    sys.stdout.write(f"jbuild-probe: {json.dumps(report)}\n")


def extensions(folder: Path) -> Iterator[Path]:
    """Yield the extension modules below a folder: by their file names, or by the function that an import calls."""
    for path in sorted(folder.rglob("*.so")):
        if path.name.endswith(_TAGGED) or f"PyInit_{path.stem}".encode() in path.read_bytes():
            yield path


def attempt(folder: Path, path: Path) -> str | None:
    """Return why a module does not load, or None if it does."""
    error = _apart(lambda: _open(path))
    if error is None:
        return None
    parts = path.relative_to(folder).with_name(path.name.split(".")[0]).parts
    return None if _apart(lambda: _import(".".join(parts))) is None else error


def needed_driver(error: str, globs: Iterable[str]) -> str | None:
    """Return the library of the GPU's driver that an error reports as missing, or None."""
    match = _MISSING.search(error)
    name = os.path.basename(match.group(1)) if match else ""  # noqa: PTH119  # a name, maybe of no file
    return name if any(fnmatch.fnmatchcase(name, glob) for glob in globs) else None


def _open(path: Path) -> str | None:
    try:
        ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError as error:
        return str(error)
    return None


def _import(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return "absent" if error.name == name else str(error)
    except BaseException as error:  # noqa: BLE001  # an import may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _apart(action: Callable[[], str | None]) -> str | None:
    """Run an action in its own process, since a module may end or hang it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.write(writer, (action() or "").encode(errors="replace")[:_READ])
        os._exit(0)
    os.close(writer)
    in_time, _, _ = select.select([reader], [], [], _WITHIN_S)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    output = os.read(reader, _READ).decode(errors="replace") if in_time else ""
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if not in_time:
        return f"it does not return within {_WITHIN_S} s"
    if os.WIFSIGNALED(status):
        return f"it ends its process with {signal.Signals(os.WTERMSIG(status)).name}"
    return output or None


if __name__ == "__main__":
    main()

"""CPythons on this machine, for the bytecode of images, which is the same on all architectures.

Releases of a minor version may compile differently (3.11.2 and 3.11.7 differ in a few files of a thousand), so a lock
pins the exact one.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.process import find_program, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PROGRAM = "import platform;print(platform.python_implementation(),platform.python_version())"
_ANSWER_S = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """An interpreter: its path and exact version (`3.11.7`)."""

    path: str
    version: str


def find_compiler(python: str, pinned: str | None, fetched: Path) -> Compiler | None:
    """Return an interpreter of a minor version (`3.11`): the pinned release if there is one, else any, else None.

    Candidates are jbuild's own interpreter, those on PATH, and those of uv, in its folder `fetched` too.
    """
    if pinned:
        exact = next((local for local in _local(python) if local.version == pinned), None) or _by_uv(pinned, fetched)
        if exact:
            return exact
    return next(_local(python), None) or _by_uv(python, fetched)


def _local(python: str) -> Iterator[Compiler]:
    running = Compiler(path=sys.executable, version=platform.python_version())
    if platform.python_implementation() == "CPython" and running.version.startswith(f"{python}."):
        yield running
    for name in (f"python{python}", "python3"):
        path = find_program(name)
        candidate = _inspect(path) if path else None
        if candidate and candidate.version.startswith(f"{python}."):
            yield candidate


def _by_uv(version: str, fetched: Path) -> Compiler | None:
    from uv import find_uv_bin  # noqa: PLC0415  # slow to import; few need it

    argv = [find_uv_bin(), "python", "find", "--no-project", "--no-config", "--offline", f"cpython@{version}"]
    env = {"UV_PYTHON_DOWNLOADS": "never", "UV_PYTHON_INSTALL_DIR": str(fetched)}
    try:
        return _inspect(run(argv, env=env, timeout_s=_ANSWER_S).stdout.strip())
    except (JbuildError, FileNotFoundError):
        return None


@cache
def _inspect(path: str) -> Compiler | None:
    try:
        implementation, version = run([path, "-I", "-S", "-c", _PROGRAM], timeout_s=_ANSWER_S).stdout.split()
    except (JbuildError, ValueError):
        # For example a shim without an interpreter.
        return None
    return Compiler(path=path, version=version) if implementation == "CPython" else None

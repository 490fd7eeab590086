"""Finds a CPython on this machine that compiles an image's bytecode, which carries no architecture.

Releases of one minor version do not all compile alike (3.11.2 and 3.11.7 differ in a few files of a thousand), so a
lock pins the exact one.
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

_ASK = "import platform;print(platform.python_implementation(),platform.python_version())"
_ANSWER_S = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """An interpreter: where it is, and its exact version (`3.11.7`)."""

    path: str
    version: str


def find_compiler(python: str, pinned: str | None, fetched: Path) -> Compiler | None:
    """Return an interpreter of a minor version (`3.11`): the pinned release if there is one, else any, else None.

    Looks at jbuild's own interpreter, at PATH, and at what uv knows of, `fetched` (where it put some for us) included.
    """
    if pinned:
        exact = next((found for found in _near(python) if found.version == pinned), None) or _by_uv(pinned, fetched)
        if exact:
            return exact
    return next(_near(python), None) or _by_uv(python, fetched)


def _near(python: str) -> Iterator[Compiler]:
    own = Compiler(path=sys.executable, version=platform.python_version())
    if platform.python_implementation() == "CPython" and own.version.startswith(f"{python}."):
        yield own
    for name in (f"python{python}", "python3"):
        path = find_program(name)
        found = _asked(path) if path else None
        if found and found.version.startswith(f"{python}."):
            yield found


def _by_uv(version: str, fetched: Path) -> Compiler | None:
    from uv import find_uv_bin  # noqa: PLC0415  # slow to import; few need it

    argv = [find_uv_bin(), "python", "find", "--no-project", "--no-config", "--offline", f"cpython@{version}"]
    env = {"UV_PYTHON_DOWNLOADS": "never", "UV_PYTHON_INSTALL_DIR": str(fetched)}
    try:
        return _asked(run(argv, env=env, timeout_s=_ANSWER_S).stdout.strip())
    except (JbuildError, FileNotFoundError):
        # It knows none.
        return None


@cache
def _asked(path: str) -> Compiler | None:
    try:
        implementation, version = run([path, "-I", "-S", "-c", _ASK], timeout_s=_ANSWER_S).stdout.split()
    except (JbuildError, ValueError):
        # A shim without an interpreter behind it, say: not a candidate.
        return None
    return Compiler(path=path, version=version) if implementation == "CPython" else None

"""Finds a CPython on this machine that can compile for the image: bytecode carries no architecture."""

from __future__ import annotations

import sys
from functools import cache

from builder.errors import JbuildError
from builder.process import find_program, run

_ASK = "import sys,platform;print(platform.python_implementation(),*sys.version_info[:2])"


@cache
def native_python(version: str) -> str | None:
    """Return a CPython of the minor version (`3.11`) on this machine, or None."""
    for candidate in (sys.executable, f"python{version}", "python3"):
        path = find_program(candidate)
        if path and _is(path, version):
            return path
    return None


def _is(path: str, version: str) -> bool:
    try:
        answer = run([path, "-I", "-S", "-c", _ASK], timeout_s=20).stdout.split()
    except JbuildError:
        # A shim without an interpreter behind it, say: not a candidate.
        return False
    return answer[:1] == ["CPython"] and ".".join(answer[1:]) == version

"""What NVIDIA's cuobjdump says of the GPU code in a file, and where the audit's reader differs.

The program comes with the package `nvidia-cuda-cuobjdump`, which goes into a virtual environment of its own.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from builder.audit import elf, fatbin
from builder.audit.byte_source import File
from builder.host.process import run
from builder.lock.solve import uv

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "nvidia-cuda-cuobjdump==13.4.92"
_LISTED = re.compile(r"(?:ELF|PTX) file +\d+: .*\.sm_(\d+)[a-z]?\.(cubin|ptx)")
_KINDS = {"cubin": "sass", "ptx": "ptx"}
_LIMIT_S = 900


def program(folder: Path) -> Path:
    """Return the path of cuobjdump, installed below a folder where it is not there yet.

    Raises:
        ProgramFailedError: it cannot be installed.
    """
    found = next(folder.rglob("bin/cuobjdump"), None)
    if found is None:
        run([uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        run([uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), PACKAGE])
        found = next(folder.rglob("bin/cuobjdump"))
    return found


def listed(cuobjdump: Path, path: Path) -> tuple[set[tuple[str, int]], int]:
    """Return the targets that cuobjdump lists, as (kind, SM), and how many pieces of code it lists."""
    found: list[tuple[str, int]] = []
    for option in ("--list-elf", "--list-ptx"):
        shown = run([str(cuobjdump), option, str(path)], check=False, timeout_s=_LIMIT_S).stdout
        found += [(_KINDS[kind], int(sm)) for sm, kind in _LISTED.findall(shown)]
    return set(found), len(found)


def differences(cuobjdump: Path, path: Path) -> tuple[int, list[str]]:
    """Return how many pieces of GPU code a file has, and in what the audit's reader and cuobjdump differ."""
    source = File(path)
    codes = fatbin.codes(source, elf.read_source(source))
    mine = {(code.target.kind, code.target.sm) for code in codes}
    said, count = listed(cuobjdump, path)
    if mine == said:
        return count, []
    return count, [f"cuobjdump: only ours {sorted(mine - said)}, only theirs {sorted(said - mine)}"]

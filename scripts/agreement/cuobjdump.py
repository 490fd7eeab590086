"""Lists the GPU code in a file with NVIDIA's cuobjdump, and compares the list with the result of the audit's reader.

The package `nvidia-cuda-cuobjdump` provides the program; it is installed into a separate virtual environment.
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
_ENTRY = re.compile(r"(?:ELF|PTX) file +\d+: .*\.sm_(\d+)[a-z]?\.(cubin|ptx)")
_KINDS = {"cubin": "sass", "ptx": "ptx"}
_LIMIT_S = 900


def program(folder: Path) -> Path:
    """Return the path of cuobjdump; install it below a folder if it is missing.

    Raises:
        ProgramFailedError: the installation failed.
    """
    executable = next(folder.rglob("bin/cuobjdump"), None)
    if executable is None:
        run([uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        run([uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), PACKAGE])
        executable = next(folder.rglob("bin/cuobjdump"))
    return executable


def targets(cuobjdump: Path, path: Path) -> tuple[set[tuple[str, int]], int]:
    """Return the targets that cuobjdump lists, as (kind, SM), and the number of GPU code entries."""
    entries: list[tuple[str, int]] = []
    for option in ("--list-elf", "--list-ptx"):
        output = run([str(cuobjdump), option, str(path)], check=False, timeout_s=_LIMIT_S).stdout
        entries += [(_KINDS[kind], int(sm)) for sm, kind in _ENTRY.findall(output)]
    return set(entries), len(entries)


def differences(cuobjdump: Path, path: Path) -> tuple[int, list[str]]:
    """Return the number of GPU code entries in a file, and the differences between the audit's reader and cuobjdump."""
    source = File(path)
    codes = fatbin.codes(source, elf.read_source(source))
    mine = {(code.target.kind, code.target.sm) for code in codes}
    theirs, count = targets(cuobjdump, path)
    if mine == theirs:
        return count, []
    return count, [f"cuobjdump: only ours {sorted(mine - theirs)}, only theirs {sorted(theirs - mine)}"]

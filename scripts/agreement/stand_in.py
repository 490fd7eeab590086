"""Builds stand-ins for the libraries that the NVIDIA runtime injects into a container.

A stand-in defines every requested symbol. It is for the loader only: its functions only return.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from agreement.elves import needed, undefined
from builder.errors import UsageError
from builder.host.process import find_program, run

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOOLS = ("aarch64-linux-gnu-as", "aarch64-linux-gnu-ld")
# The prefixes of the functions in each library (cuInit, nvmlInit).
_PREFIXES = {"libcuda.so.1": "cu[A-Z]", "libnvidia-ml.so.1": "nvml[A-Z]"}


def make_stand_ins(sonames: tuple[str, ...], objects: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """Build a library for each soname; it defines the symbols that these shared objects request from it.

    Raises:
        UsageError: the assembler and linker for arm64 are not installed, or a soname is unknown.
        ProgramFailedError: the assembler or the linker failed.
    """
    if not sonames:
        return ()
    if unknown := set(sonames) - set(_PREFIXES):
        raise UsageError(
            f"cannot build a stand-in for {', '.join(sorted(unknown))}", hint="add its prefix to stand_in.py"
        )
    if not all(find_program(tool) for tool in _TOOLS):
        hint = "install the package binutils-aarch64-linux-gnu"
        raise UsageError(f"{' and '.join(_TOOLS)} are needed to build a stand-in for {sonames[0]}", hint=hint)
    needs = {path: needed(path) for path in objects}
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(
        _assemble(soname, undefined((p for p, n in needs.items() if soname in n), _PREFIXES[soname]), folder)
        for soname in sonames
    )


def _assemble(soname: str, symbols: tuple[str, ...], folder: Path) -> Path:
    # Without the note, the loader would assume an executable stack, which glibc 2.41 and newer refuse.
    lines = [
        '.section .note.GNU-stack,"",%progbits',
        ".text",
        *(f".globl {name}\n.type {name}, %function\n{name}: ret" for name in symbols),
    ]
    library = folder / soname
    with tempfile.TemporaryDirectory(prefix="jbuild-agreement-") as name:
        source, middle = Path(name) / "a.s", Path(name) / "a.o"
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        run([_TOOLS[0], "-o", str(middle), str(source)])
        run([_TOOLS[1], "-shared", "-soname", soname, "-o", str(library), str(middle)])
    return library

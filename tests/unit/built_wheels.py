"""Wheels as build backends write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elf_files import make_elf
from factories import make_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CROSS = "cp312-cp312-linux_aarch64"
MODULE = "demo/_C.cpython-312-aarch64-linux-gnu.so"
MODULE_FACTS: dict[str, Any] = {
    "needed": ["libc.so.6"],
    "defined": ["PyInit__C"],
    "undefined": [("malloc", "GLIBC_2.17"), "PyModule_Create2"],
    "versions": {"libc.so.6": ["GLIBC_2.17"]},
}


def raw_wheel(
    folder: Path, files: Mapping[str, str | bytes | dict[str, Any]] | None = None, tag: str = CROSS, **more: Any
) -> Path:
    """Write a wheel as a backend does; files are contents, or what `make_elf` takes."""
    files = {"demo/__init__.py": "", MODULE: MODULE_FACTS} if files is None else files
    contents = {name: make_elf(**what) if isinstance(what, dict) else what for name, what in files.items()}
    return make_wheel(folder, more.pop("name", "demo"), tag=tag, files=contents, **more)

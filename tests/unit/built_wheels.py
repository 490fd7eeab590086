"""Builds, and wheels as build backends write them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from elf_files import make_elf
from factories import make_locked_wheel, make_wheel

from builder.model.builds import BuildPatch, BuildSource, BuildTarget, LockedBuild, ToolFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TORCH = make_locked_wheel("torch", "2.11.0", filename="torch-2.11.0-cp312-cp312-manylinux_2_28_aarch64.whl")
SDIST = BuildSource(kind="sdist", location="https://index.example/demo-1.0.tar.gz", sha256="a" * 64)
CROSS = "cp312-cp312-linux_aarch64"
MODULE = "demo/_C.cpython-312-aarch64-linux-gnu.so"
MODULE_FACTS: dict[str, Any] = {
    "needed": ["libc.so.6"],
    "defined": ["PyInit__C"],
    "undefined": [("malloc", "GLIBC_2.17"), "PyModule_Create2"],
    "versions": {"libc.so.6": ["GLIBC_2.17"]},
}


def make_target(**changes: Any) -> BuildTarget:
    """Return a target: Orin with CUDA 13 and torch."""
    facts: dict[str, Any] = {
        "architecture": "arm64",
        "python": "3.12",
        "glibc": "2.39",
        "gpus": ("8.7",),
        "cuda": "13.0",
        "torch": TORCH,
    }
    return BuildTarget(**(facts | changes))


CPU = make_target(gpus=(), cuda=None, torch=None)


def make_build(**changes: Any) -> LockedBuild:
    """Return a build of `demo` 1.0 with a patch, a build requirement and a compiler."""
    tool = {"filename": "gcc-12.deb", "url": "https://mirror.example/gcc-12.deb", "sha256": "c" * 64}
    facts: dict[str, Any] = {
        "name": "demo",
        "version": "1.0",
        "source": SDIST,
        "target": make_target(),
        "machine": "amd64",
        "toolchain": "cuda-13.0",
        "compiler": "gcc 12.2.0",
        "tools": (ToolFile(role="gcc", **tool),),
        "requirements": (make_locked_wheel("setuptools", "80.9.0"),),
        "patches": (BuildPatch(name="patches/demo.patch", sha256=hashlib.sha256(b"patch").hexdigest()),),
        "environment": (("DEMO_FORCE_BUILD", "TRUE"),),
    }
    return LockedBuild(**(facts | changes))


def raw_wheel(
    folder: Path, files: Mapping[str, str | bytes | dict[str, Any]] | None = None, tag: str = CROSS, **more: Any
) -> Path:
    """Write a wheel as a backend does; files are contents, or what `make_elf` takes."""
    files = {"demo/__init__.py": "", MODULE: MODULE_FACTS} if files is None else files
    contents = {name: make_elf(**what) if isinstance(what, dict) else what for name, what in files.items()}
    return make_wheel(folder, more.pop("name", "demo"), tag=tag, files=contents, **more)

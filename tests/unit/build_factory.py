"""Builds on paper: nothing that they name exists."""

from __future__ import annotations

import hashlib
from typing import Any

from factories import make_locked_wheel

from builder.model.builds import BuildPatch, BuildSource, BuildTarget, LockedBuild, ToolFile

TORCH = make_locked_wheel("torch", "2.11.0", filename="torch-2.11.0-cp312-cp312-manylinux_2_28_aarch64.whl")
SDIST = BuildSource(kind="sdist", location="https://index.example/demo-1.0.tar.gz", sha256="a" * 64)
GCC = "gcc-12-aarch64-linux-gnu_12.2.0-14cross1_amd64.deb"


def make_tool(filename: str = GCC, role: str = "system", **changes: Any) -> ToolFile:
    """Return a file of a toolchain: the compiler."""
    facts: dict[str, Any] = {"url": f"https://mirror.example/{filename}", "sha256": "c" * 64}
    return ToolFile(role=role, filename=filename, **(facts | changes))  # type: ignore[arg-type]


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
    facts: dict[str, Any] = {
        "name": "demo",
        "version": "1.0",
        "source": SDIST,
        "target": make_target(),
        "machine": "amd64",
        "toolchain": "cuda-13.0",
        "compiler": "12.2.0-14cross1",
        "interpreter": "3.12.1",
        "tools": (make_tool(),),
        "requirements": (make_locked_wheel("setuptools", "80.9.0"),),
        "patches": (BuildPatch(name="patches/demo.patch", sha256=hashlib.sha256(b"patch").hexdigest()),),
        "environment": (("DEMO_FORCE_BUILD", "TRUE"),),
    }
    return LockedBuild(**(facts | changes))

"""Locked builds, without anything that they name."""

from __future__ import annotations

from typing import Any

from builder.model.builds import BuildSource, BuildTarget, LockedBuild, ToolFile
from builder.model.wheels import LockedWheel

COMPILER = "gcc-12-aarch64-linux-gnu_12.2.0-14cross1_amd64.deb"


def new_target(**changes: Any) -> BuildTarget:
    """A Thor-like target with torch."""
    values: dict[str, Any] = {
        "architecture": "arm64",
        "python": "3.12",
        "glibc": "2.39",
        "gpus": ("8.7", "11.0"),
        "cuda": "13.0",
        "torch": new_wheel("torch-2.11.0-cp312-cp312-manylinux_2_28_aarch64.whl"),
    }
    return BuildTarget(**{**values, **changes})


def new_wheel(filename: str) -> LockedWheel:
    """A wheel that exists nowhere."""
    name, version = filename.split("-")[:2]
    return LockedWheel(
        name=name, version=version, filename=filename, url=f"https://index.example/{filename}", sha256="c" * 64
    )


def new_tool(filename: str = COMPILER, role: str = "system", **changes: Any) -> ToolFile:
    """A file of a toolchain."""
    values: dict[str, Any] = {"url": f"https://archive.example/{filename}", "sha256": "d" * 64}
    return ToolFile(role=role, filename=filename, **{**values, **changes})  # type: ignore[arg-type]


def new_build(**changes: Any) -> LockedBuild:
    """A build on an x86-64 machine for arm64."""
    values: dict[str, Any] = {
        "name": "axpyx",
        "version": "0.1",
        "source": BuildSource(kind="folder", location="axpyx", sha256="a" * 64),
        "target": new_target(),
        "machine": "amd64",
        "toolchain": "cuda-13.0",
        "compiler": "12.2.0-14cross1",
        "interpreter": "3.12.1",
        "tools": (new_tool(),),
        "requirements": (new_wheel("ninja-1.13.2-py3-none-manylinux_2_17_x86_64.whl"),),
    }
    return LockedBuild(**{**values, **changes})

"""The toolchain file of CMake, and the folder of compilers under their usual names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.foundry.build_environment import CUDA, TORCH
from builder.foundry.build_python import HOME
from builder.foundry.sandbox_root import compiler_of, triplet
from builder.lock.uv_target import MACHINES

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.builds import LockedBuild

_LINKS = {
    "gcc": "gcc-{major}",
    "cc": "gcc-{major}",
    "g++": "g++-{major}",
    "c++": "g++-{major}",
    "cpp": "cpp-{major}",
    "ar": "ar",
    "ld": "ld",
    "nm": "nm",
    "objcopy": "objcopy",
    "objdump": "objdump",
    "ranlib": "ranlib",
    "readelf": "readelf",
    "strip": "strip",
}


def write_toolchain(folder: Path, build: LockedBuild) -> None:
    """Write `toolchain.cmake`, and `bin/` with the target's compilers as `gcc`, `cc`, `aarch64-linux-gnu-gcc`."""
    prefix, major = triplet(build.target.architecture), compiler_of(build.tools)[0]
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, program in _LINKS.items():
        target = f"/usr/bin/{prefix}-{program.format(major=major)}"
        for link in (programs / name, programs / f"{prefix}-{name}"):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    lines = [*_common(build, prefix, major), *(_cuda(build, prefix, major) if build.target.cuda else ())]
    (folder / "toolchain.cmake").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _common(build: LockedBuild, prefix: str, major: str) -> list[str]:
    lines = [
        f"set(CMAKE_C_COMPILER {prefix}-gcc-{major})",
        f"set(CMAKE_CXX_COMPILER {prefix}-g++-{major})",
        f'set(CMAKE_FIND_ROOT_PATH "/usr/{prefix}" "{CUDA}" "{TORCH}/torch" "{HOME}")',
        "set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)",
        "set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)",
        "set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)",
        "set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)",
        f'set(Python_INCLUDE_DIR "{HOME}/include/python{build.target.python}" CACHE PATH "")',
        f'set(Python3_INCLUDE_DIR "{HOME}/include/python{build.target.python}" CACHE PATH "")',
    ]
    if build.is_cross:
        machine = MACHINES[build.target.architecture]
        lines = ["set(CMAKE_SYSTEM_NAME Linux)", f"set(CMAKE_SYSTEM_PROCESSOR {machine})", *lines]
        soabi = f"cpython-{build.target.python.replace('.', '')}-{prefix}"
        lines += [f'set({name}_SOABI {soabi} CACHE STRING "")' for name in ("Python", "Python3")]
    return lines


def _cuda(build: LockedBuild, prefix: str, major: str) -> list[str]:
    architectures = ";".join(gpu.replace(".", "") for gpu in build.target.gpus)
    return [
        f'set(CMAKE_CUDA_COMPILER "{CUDA}/bin/nvcc")',
        f"set(CMAKE_CUDA_HOST_COMPILER {prefix}-g++-{major})",
        f'set(CMAKE_CUDA_ARCHITECTURES "{architectures}" CACHE STRING "")',
        f'set(CUDA_TOOLKIT_ROOT_DIR "{CUDA}" CACHE PATH "")',
        f'set(CUDAToolkit_ROOT "{CUDA}")',
        'set(CMAKE_CUDA_RUNTIME_LIBRARY Shared CACHE STRING "")',
    ]

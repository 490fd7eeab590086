"""The toolchain file of CMake, and the folder of compilers under their usual names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.foundry.build_environment import CUDA, SYSROOT, TORCH
from builder.foundry.build_python import HOME
from builder.foundry.sandbox_root import compiler_of, library_of, triplet
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
    """Write `toolchain.cmake`, and `bin/` with the target's compilers as `gcc`, `cc`, `aarch64-linux-gnu-gcc`.

    With a sysroot, the compilers are scripts that use it, also under their full names.
    """
    prefix, major, library = triplet(build.target.architecture), compiler_of(build.tools)[0], library_of(build.tools)
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, program in _LINKS.items():
        full = f"{prefix}-{program.format(major=major)}"
        script = _with_sysroot(full, prefix, library) if library and full.endswith(f"-{major}") else None
        for path in {programs / name, programs / f"{prefix}-{name}", *([programs / full] if script else [])}:
            path.unlink(missing_ok=True)
            if script:
                path.write_text(script, encoding="utf-8")
                path.chmod(0o755)
            else:
                path.symlink_to(f"/usr/bin/{full}")
    lines = [*_common(build, prefix, major), *(_cuda(build, prefix, major) if build.target.cuda else ())]
    (folder / "toolchain.cmake").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _with_sysroot(program: str, prefix: str, library: str) -> str:
    """Return a script that calls a compiler with the base's C library and libstdc++.

    gcc's own folders would come before those of the sysroot, and it looks for the headers of its own libstdc++ only.
    """
    headers = [f"{SYSROOT}/usr/include/{name}" for name in (f"c++/{library}", f"{prefix}/c++/{library}")]
    paths = ":".join([*headers, f"{headers[0]}/backward"])
    return f"""#!/bin/sh
export CPLUS_INCLUDE_PATH="{paths}${{CPLUS_INCLUDE_PATH:+:$CPLUS_INCLUDE_PATH}}"
exec /usr/bin/{program} --sysroot={SYSROOT} -L{SYSROOT}/usr/lib/gcc/{prefix}/{library} "$@"
"""


def _common(build: LockedBuild, prefix: str, major: str) -> list[str]:
    root = SYSROOT if library_of(build.tools) else f"/usr/{prefix}"
    lines = [
        f"set(CMAKE_C_COMPILER {prefix}-gcc-{major})",
        f"set(CMAKE_CXX_COMPILER {prefix}-g++-{major})",
        f'set(CMAKE_FIND_ROOT_PATH "{root}" "{CUDA}" "{TORCH}/torch" "{HOME}")',
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

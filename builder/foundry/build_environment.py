"""The environment of a build: everything that an unmodified project needs to know about its target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.foundry.build_inputs import input_variables
from builder.foundry.build_python import CFLAGS, HOME, sysconfig_name
from builder.foundry.sandbox_root import compiler_of, triplet
from builder.lock.uv_target import MACHINES

if TYPE_CHECKING:
    from builder.model.builds import LockedBuild

CUDA = "/foundry/cuda"
TORCH = "/foundry/torch"
TARGET = "/foundry/target"
REQUIREMENTS = "/foundry/requirements"
SYSROOT = "/foundry/sysroot"
# 1980-01-01, the earliest time in a zip file.
_EPOCH = "315532800"
_STATED = (
    *("CC", "CXX", "AR", "LD", "LDFLAGS", "CUDACXX", "CUDAHOSTCXX", "NVCC_PREPEND_FLAGS", "TORCH_CUDA_ARCH_LIST"),
    *("CFLAGS", "CXXFLAGS", "CMAKE_GENERATOR", "CMAKE_ARGS", "SOURCE_DATE_EPOCH", "PYTHONHASHSEED"),
)


def build_environment(build: LockedBuild, jobs: int) -> dict[str, str]:
    """Return the variables of a build; those of the recipe come last."""
    return {
        **_machine(jobs),
        **_python(build),
        **_compilers(build),
        **(_cuda(build) if build.target.cuda else {}),
        # The empty stand-ins of the target's libraries define nothing that would make the linker name them.
        **({"LDFLAGS": "-Wl,--no-as-needed"} if build.target.cuda or build.target.torch else {}),
        **_version(build),
        **input_variables(build),
        **dict(build.environment),
    }


def stated_settings(build: LockedBuild) -> dict[str, str]:
    """Return the settings of compilers, for a wheel's provenance: those that are the same on every machine."""
    environment = build_environment(build, 1)
    return {"CFLAGS": CFLAGS, **{name: environment[name] for name in _STATED if name in environment}}


def _machine(jobs: int) -> dict[str, str]:
    return {
        "PATH": f"{REQUIREMENTS}/bin:{TARGET}/bin:{CUDA}/bin:/usr/bin",
        "HOME": "/build/home",
        "TMPDIR": "/build/temp",
        "SOURCE_DATE_EPOCH": _EPOCH,
        "MAX_JOBS": str(jobs),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
        "MAKEFLAGS": f"-j{jobs}",
        "NVCC_THREADS": "1",
        "NINJA_STATUS": "[%f/%t] ",
    }


def _python(build: LockedBuild) -> dict[str, str]:
    machine = MACHINES[build.target.architecture]
    return {
        "LD_LIBRARY_PATH": f"{HOME}/lib",
        "PYTHONPATH": f"{TARGET}/site",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        "_PYTHON_SYSCONFIGDATA_NAME": sysconfig_name(build),
        "JBUILD_TARGET_MACHINE": machine,
    }


def _compilers(build: LockedBuild) -> dict[str, str]:
    prefix, major = triplet(build.target.architecture), compiler_of(build.tools)[0]
    return {
        "CC": f"{prefix}-gcc-{major}",
        "CXX": f"{prefix}-g++-{major}",
        "AR": f"{prefix}-ar",
        "LD": f"{prefix}-ld",
        "STRIP": f"{prefix}-strip",
        "CMAKE_TOOLCHAIN_FILE": f"{TARGET}/toolchain.cmake",
        "CMAKE_GENERATOR": "Ninja",
    }


def _cuda(build: LockedBuild) -> dict[str, str]:
    compiler = f"{triplet(build.target.architecture)}-g++-{compiler_of(build.tools)[0]}"
    return {
        "CUDA_HOME": CUDA,
        "CUDA_PATH": CUDA,
        "CUDACXX": f"{CUDA}/bin/nvcc",
        "CUDA_TOOLKIT_ROOT": CUDA,
        "CUDAHOSTCXX": compiler,
        # nvcc 12 ignores NVCC_CCBIN. Without the option, objects contain names of temporary files, with process IDs.
        "NVCC_PREPEND_FLAGS": f"-ccbin {compiler} --objdir-as-tempdir{_seed(build)}",
        "TORCH_CUDA_ARCH_LIST": ";".join(build.target.gpus),
    }


def _seed(build: LockedBuild) -> str:
    """Return nvcc's option against process IDs in the names of units without an external function.

    nvcc 12.4 has no such option: `nvcc --help` of both releases.
    """
    return "" if build.toolchain.startswith("cuda-12.") else " --frandom-seed=jbuild"


def _version(build: LockedBuild) -> dict[str, str]:
    """Return the version for setuptools-scm, which would ask Git."""
    name = canonicalize_name(build.name).replace("-", "_").upper()
    return {f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{name}": build.version}

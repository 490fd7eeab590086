"""A CUDA toolkit in a folder: the machine's nvcc, the target's headers and runtime, its other libraries' names."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from builder.foundry.fetched_files import fetch_inputs
from builder.foundry.sandbox_root import as_input, unpack_package
from builder.foundry.stub_libraries import write_stubs
from builder.foundry.toolchains import toolchains
from builder.foundry.wheel_members import copy_executable, unpack_members
from builder.host import records
from builder.host.files import atomic_folder, disk_errors, mark_used, temp_folder

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild, ToolFile

# Part of the folder's name, by the first number of the CUDA release: raise it when the same files give another folder.
_FORMATS = {"13": 1, "12": 2}
# The libraries that programs link to besides the runtime, by the first number of the CUDA release.
_LIBRARIES = {
    "13": {"cublas": "13", "cublasLt": "13", "cusparse": "12", "cusolver": "12", "curand": "10", "cufft": "12"},
    "12": {"cublas": "12", "cublasLt": "12", "cusparse": "12", "cusolver": "11", "curand": "10", "cufft": "11"},
}
_COMPILER_LIBRARIES = {"13": {"nvrtc": "13", "nvJitLink": "13"}, "12": {"nvrtc": "12", "nvJitLink": "12"}}
_PROFILE = """TOP = $(_HERE_)/..
CICC_PATH = $(TOP)/nvvm/bin
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(CICC_PATH):$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64"
"""
_PACKAGE_PROGRAMS = ("cudafe++", "fatbinary", "nvlink", "ptxas", "cuobjdump", "nvdisasm", "bin2c")


def cuda_tree(build: LockedBuild, session: Session) -> Path | None:
    """Return the folder for CUDA_HOME, after making it if it is missing; None for sources without CUDA.

    Raises:
        NetworkError, IntegrityError, DiskError: a file cannot be fetched, verified or stored.
    """
    tools = [tool for tool in build.tools if tool.role in ("nvcc", "cuda-runtime", "cuda-headers")]
    if not tools:
        return None
    release = toolchains()[build.toolchain].nvcc or ""
    form = _FORMATS[release.partition(".")[0]]
    key = records.fingerprint(form, sorted((tool.role, tool.sha256) for tool in tools), build.target.architecture)
    tree = session.workspace.foundry / "cuda" / key
    if mark_used(tree):
        return tree
    with disk_errors(tree), atomic_folder(tree) as folder:
        for tool in tools:
            if tool.filename.endswith(".deb"):
                _unpack_compiler(tool, folder, session)
            else:
                unpack_members(tool, session, lambda name, tool=tool: _path(name, tool, folder))  # type: ignore[misc]
        _complete(folder, release, build, session)
    return tree


def _path(name: str, tool: ToolFile, folder: Path) -> Path | None:
    """Return where a member of NVIDIA's wheels belongs: below nvidia/cu13, or nvidia/<library> for CUDA 12."""
    parts = name.split("/")
    if parts[0] != "nvidia" or len(parts) < 4 or parts[-1] == "__init__.py":  # noqa: PLR2004
        return None
    if parts[2] not in ("include", "lib", "bin", "nvvm"):
        return None
    if tool.role == "cuda-headers" and parts[2] != "include":
        return None
    return folder.joinpath(*parts[2:])


def _unpack_compiler(tool: ToolFile, folder: Path, session: Session) -> None:
    """Unpack Debian's package and arrange its programs as NVIDIA's toolkit has them."""
    (package,) = fetch_inputs([as_input(tool)], session)
    with temp_folder(folder.parent, "toolkit") as unpacked:
        unpack_package(package, unpacked)
        usr = unpacked / "usr"
        toolkit = usr / "lib/nvidia-cuda-toolkit"
        for name in _PACKAGE_PROGRAMS:
            if (usr / "bin" / name).is_file():
                copy_executable(usr / "bin" / name, folder / "bin" / name)
        copy_executable(toolkit / "bin/nvcc", folder / "bin/nvcc")
        copy_executable(toolkit / "bin/cicc", folder / "nvvm/bin/cicc")
        shutil.copytree(toolkit / "bin/crt", folder / "bin/crt")
        shutil.copytree(toolkit / "libdevice", folder / "nvvm/libdevice")
    (folder / "bin/nvcc.profile").write_text(_PROFILE, encoding="utf-8")


def _complete(folder: Path, version: str, build: LockedBuild, session: Session) -> None:
    """Add what wheels cannot contain: executable bits, links and the names of libraries."""
    for programs in (folder / "bin", folder / "nvvm/bin"):
        for path in programs.iterdir():
            if path.is_file():
                path.chmod(0o755)
    major, libraries = version.partition(".")[0], folder / "lib"
    if (folder / "lib64").is_dir():
        (folder / "lib64").rename(libraries)
    libraries.mkdir(exist_ok=True)
    (folder / "lib64").symlink_to("lib")
    (folder / "targets").mkdir()
    for name in ("aarch64-linux", "sbsa-linux", "x86_64-linux"):
        (folder / "targets" / name).symlink_to("..")
    for compiler_library in libraries.glob("libnvvm.so*"):
        # The building machine's; the target's programs must not be linked to it.
        compiler_library.unlink()
    (libraries / "libcudart.so").unlink(missing_ok=True)
    (libraries / "libcudart.so").symlink_to(f"libcudart.so.{major}")
    _add_archives(libraries)
    sonames = _LIBRARIES[major] | _COMPILER_LIBRARIES[major]
    stubs = {f"lib{name}.so": f"lib{name}.so.{number}" for name, number in sonames.items()}
    write_stubs(libraries, {**stubs, "libnvToolsExt.so": "libnvToolsExt.so.1"}, build, session)
    write_stubs(
        libraries / "stubs", {"libcuda.so": "libcuda.so.1", "libnvidia-ml.so": "libnvidia-ml.so.1"}, build, session
    )


def _add_archives(libraries: Path) -> None:
    """Add the archives that nvcc names when it links programs, such as those that CMake tests it with.

    NVIDIA's wheels for CUDA 12 lack them. The static runtime refers to the shared one, since it must not be part of a
    wheel for Tegra; device code that is linked by nvcc finds no runtime of its own.
    """
    for name, content in (("libcudart_static.a", "INPUT(libcudart.so)\n"), ("libcudadevrt.a", "!<arch>\n")):
        if not (libraries / name).exists():
            (libraries / name).write_text(content, encoding="ascii")

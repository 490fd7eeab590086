"""The torch of a build: headers, CMake files and `cpp_extension` of the target's wheel, without its code."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import parse_wheel_filename

from builder.foundry.stub_libraries import write_stubs
from builder.foundry.wheel_members import member_names, unpack_members
from builder.host import records
from builder.host.files import atomic_folder, disk_errors, mark_used

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import LockedBuild, ToolFile

# Part of the folder's name: raise it when the same wheel gives another folder.
_FORMAT = 2
_STAND_IN = Path(__file__).with_name("inside") / "torch_stand_in.py"
_MEMBERS = re.compile(
    r"torch/(include|share)/.*"
    r"|torch/(version|torch_version|_appdirs|_environment|_utils_internal)\.py"
    r"|torch/_vendor/.*"
    r"|torch/utils/(cpp_extension|file_baton|_cpp_extension_versioner|hipify/.*)(\.py)?"
    r"|torch-[^/]*\.dist-info/(METADATA|WHEEL)"
)
_LIBRARY = re.compile(r"torch/lib/(?P<name>lib[^/]+\.so)")
_UTILS = """import os
cmake_prefix_path = os.path.join(os.path.dirname(os.path.dirname(__file__)), "share", "cmake")
"""
_ABI = re.compile(r"_GLIBCXX_USE_CXX11_ABI=(?P<abi>[01])")
# Headers that only a build with CUDA generates; wheels for the CPU have all others.
_CUDA_HEADERS = {
    "c10/cuda/impl/cuda_cmake_macros.h": "#pragma once\n#define C10_CUDA_BUILD_SHARED_LIBS\n",
    "ATen/cuda/CUDAConfig.h": (
        "#pragma once\n#define AT_CUDNN_ENABLED() 1\n#define AT_CUSPARSELT_ENABLED() 1\n"
        "#define AT_HIPSPARSELT_ENABLED() 0\n#define AT_ROCM_ENABLED() 0\n#define AT_MAGMA_ENABLED() 0\n"
        '#define NVCC_FLAGS_EXTRA ""\n'
    ),
}
# The parts of CMake's files that wheels for the CPU switch off: their switches, and the targets that they lack.
_CUDA_PARTS = (
    (
        "Caffe2/Caffe2Config.cmake",
        re.compile(
            r"(?<=^if\()OFF(?=\)\n  # The file public/cuda\.cmake )|(?<=set\(CAFFE2_USE_CUDA )OFF", re.MULTILINE
        ),
        """
foreach(_name c10_cuda torch_cuda)
  add_library(${_name} SHARED IMPORTED)
  set_target_properties(${_name} PROPERTIES
    IMPORTED_LOCATION "${_INSTALL_PREFIX}/lib/lib${_name}.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_INSTALL_PREFIX}/include"
    INTERFACE_LINK_LIBRARIES "torch::cudart")
endforeach()
set_property(TARGET torch APPEND PROPERTY INTERFACE_LINK_LIBRARIES c10_cuda torch_cuda)
""",
    ),
    (
        "Torch/TorchConfig.cmake",
        re.compile(r"(?<=^if\()OFF(?=\)\n  if\(MSVC\)\n    find_library\(CAFFE2_NVRTC_LIBRARY )", re.MULTILINE),
        "",
    ),
)
_CUDA_LIBRARIES = ("libc10_cuda.so", "libtorch_cuda.so", "libcaffe2_nvrtc.so")


def torch_tree(build: LockedBuild, session: Session) -> Path | None:
    """Return the folder with the build's torch, after making it if it is missing; None for builds without torch.

    Raises:
        NetworkError, IntegrityError, DiskError: the wheel cannot be read, verified or stored.
    """
    tool = next((tool for tool in build.tools if tool.role == "torch-headers"), None)
    if tool is None:
        return None
    text = _STAND_IN.read_text(encoding="utf-8")
    key = records.fingerprint(_FORMAT, tool.sha256, build.target.cuda, text)
    tree = session.workspace.foundry / "torch" / key
    if mark_used(tree):
        return tree
    names = member_names(tool, session)
    with disk_errors(tree), atomic_folder(tree) as folder:
        unpack_members(tool, session, lambda name: folder / name if _MEMBERS.fullmatch(name) else None)
        libraries = {match["name"] for name in names if (match := _LIBRARY.fullmatch(name))}
        _complete(folder / "torch", tool, build.target.cuda)
        more = _CUDA_LIBRARIES if build.target.cuda else ()
        write_stubs(folder / "torch/lib", {name: name for name in libraries.union(more)}, build, session)
    return tree


def _complete(folder: Path, tool: ToolFile, cuda: str | None) -> None:
    shutil.copyfile(_STAND_IN, folder / "__init__.py")
    (folder / "utils/__init__.py").write_text(_UTILS, encoding="utf-8")
    version = str(parse_wheel_filename(tool.filename)[1])
    config = (folder / "share/cmake/Torch/TorchConfig.cmake").read_text(encoding="utf-8")
    abi = _ABI.search(config)
    facts = {"version": version, "cuda": cuda, "cxx11_abi": abi is None or abi["abi"] == "1"}
    (folder / "stand_in.json").write_text(json.dumps(facts), encoding="utf-8")
    if cuda:
        _add_cuda(folder, cuda)


def _add_cuda(folder: Path, cuda: str) -> None:
    """Complete the headers of a wheel for the CPU; those of a CUDA wheel stay."""
    for name, text in _CUDA_HEADERS.items():
        path = folder / "include" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    _add_cuda_targets(folder / "share/cmake")
    path = folder / "version.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"^(cuda\b[^=]*=) None$", rf'\1 "{cuda}"', text, flags=re.MULTILINE), encoding="utf-8")


def _add_cuda_targets(folder: Path) -> None:
    """Let `find_package(Torch)` find CUDA with the CMake files of a wheel for the CPU; those of a CUDA wheel stay."""
    if "torch_cuda" in (folder / "Caffe2/Caffe2Targets.cmake").read_text(encoding="utf-8"):
        return
    for name, switch, more in _CUDA_PARTS:
        path = folder / name
        path.write_text(switch.sub("ON", path.read_text(encoding="utf-8")) + more, encoding="utf-8")

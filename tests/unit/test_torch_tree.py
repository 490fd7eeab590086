"""The torch of a build out of a wheel for the CPU: its CMake files find CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.foundry.cuda_tree import _add_archives
from builder.foundry.torch_tree import _add_cuda_targets

if TYPE_CHECKING:
    from pathlib import Path

# The parts of torch 2.8.0's files that depend on CUDA, beside others that stay as they are.
CAFFE2 = """if (OFF)
  include("${CMAKE_CURRENT_LIST_DIR}/public/LoadHIP.cmake")
endif()

if(OFF)
  # The file public/cuda.cmake exclusively uses CAFFE2_USE_*.
  set(CAFFE2_USE_CUDA OFF)
  include("${CMAKE_CURRENT_LIST_DIR}/public/cuda.cmake")
endif()

if(OFF)
  # Add current directory to module path so we pick up FindSYCLToolkit.cmake
endif()
"""
TORCH = """if(ON)
  append_torchlib_if_found(kineto)
endif()

if(OFF)
  if(MSVC)
    find_library(CAFFE2_NVRTC_LIBRARY caffe2_nvrtc PATHS "${TORCH_INSTALL_PREFIX}/lib")
  endif()
endif()

if(OFF AND ON)
    append_torchlib_if_found(c10_xpu torch_xpu)
endif()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("Caffe2/Caffe2Config", CAFFE2), ("Torch/TorchConfig", TORCH), ("Caffe2/Caffe2Targets", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.cmake").write_text(text)
    return tmp_path


def test_only_the_switches_of_cuda_are_turned(folder: Path) -> None:
    _add_cuda_targets(folder)
    caffe2 = (folder / "Caffe2/Caffe2Config.cmake").read_text()
    assert caffe2.startswith(
        CAFFE2.replace("if(OFF)\n  # The file", "if(ON)\n  # The file").replace("USE_CUDA OFF", "USE_CUDA ON")
    )
    assert "add_library(${_name} SHARED IMPORTED)" in caffe2
    torch = (folder / "Torch/TorchConfig.cmake").read_text()
    assert torch == TORCH.replace("if(OFF)\n  if(MSVC)", "if(ON)\n  if(MSVC)")


def test_the_files_of_a_cuda_wheel_stay(folder: Path) -> None:
    (folder / "Caffe2/Caffe2Targets.cmake").write_text("add_library(torch_cuda SHARED IMPORTED)\n")
    _add_cuda_targets(folder)
    assert (folder / "Caffe2/Caffe2Config.cmake").read_text() == CAFFE2


def test_a_program_of_cuda_12_is_linked_to_the_shared_runtime(tmp_path: Path) -> None:
    (tmp_path / "libcudadevrt.a").write_bytes(b"of the toolkit")
    _add_archives(tmp_path)
    assert (tmp_path / "libcudart_static.a").read_text() == "INPUT(libcudart.so)\n"
    assert (tmp_path / "libcudadevrt.a").read_bytes() == b"of the toolkit"

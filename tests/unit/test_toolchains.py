"""The rows of toolchains.toml, and the choice among them."""

from __future__ import annotations

from typing import get_args

import pytest
from build_factory import make_target, make_tool
from packaging.utils import parse_wheel_filename

from builder.errors import BuildError
from builder.foundry.sandbox_root import compiler_of
from builder.foundry.toolchains import PLAIN, Toolchain, toolchain_of, toolchains
from builder.model.recipes import Architecture

CUDA_ROWS = [row for row in toolchains().values() if row.id != PLAIN]
MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}


@pytest.mark.parametrize("row", CUDA_ROWS, ids=lambda row: row.id)
def test_the_files_of_a_row_are_for_their_side(row: Toolchain) -> None:
    for _, architecture, wheel in row.wheels:
        _, _, _, tags = parse_wheel_filename(wheel.file)
        assert all(tag.platform.endswith(MACHINES[architecture]) for tag in tags), wheel.file


@pytest.mark.parametrize("row", CUDA_ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("machine", get_args(Architecture))
@pytest.mark.parametrize("target", get_args(Architecture))
def test_a_row_has_a_compiler_a_runtime_and_headers(
    row: Toolchain, machine: Architecture, target: Architecture
) -> None:
    roles = {wheel.role for wheel in row.wheels_for(machine, target)} | ({"nvcc"} if row.package else set())
    assert roles == {"nvcc", "cuda-runtime", "cuda-headers"}


@pytest.mark.parametrize("row", CUDA_ROWS, ids=lambda row: row.id)
def test_only_headers_are_read_by_ranges(row: Toolchain) -> None:
    assert {wheel.role for _, _, wheel in row.wheels if wheel.record} == {"cuda-headers"}
    assert all(wheel.record for _, _, wheel in row.wheels if wheel.role == "cuda-headers")


def test_each_file_stands_once_with_one_hash() -> None:
    files = [(wheel.file, wheel.sha256) for row in CUDA_ROWS for _, _, wheel in row.wheels]
    assert len({name for name, _ in files}) == len({sha256 for _, sha256 in files}) == len(files)


@pytest.mark.parametrize(
    ("cuda", "row"), [("13.0", "cuda-13.0"), ("12.6", "cuda-12.4"), ("12.4", "cuda-12.4"), (None, PLAIN)]
)
def test_the_release_of_cuda_chooses_the_row(cuda: str | None, row: str) -> None:
    assert toolchain_of(make_target(cuda=cuda, gpus=("8.7",) if cuda else ())).id == row


def test_a_release_without_a_compiler_is_one_error_with_the_releases() -> None:
    with pytest.raises(BuildError, match=r"no toolchain compiles for CUDA 11\.4") as caught:
        toolchain_of(make_target(cuda="11.4"))
    assert "13.0, 12.4, 12.5, 12.6" in (caught.value.hint or "")


def test_a_gpu_that_nvcc_does_not_know_is_one_error() -> None:
    with pytest.raises(BuildError, match=r"nvcc 12\.4\.131 does not compile for compute capability 11\.0"):
        toolchain_of(make_target(cuda="12.6", gpus=("8.7", "11.0")))


@pytest.mark.parametrize(
    ("filename", "major", "version"),
    [
        ("gcc-12-aarch64-linux-gnu_12.2.0-14cross1_amd64.deb", "12", "12.2.0-14cross1"),
        ("gcc-12_12.2.0-14+deb12u1_amd64.deb", "12", "12.2.0-14+deb12u1"),
        ("gcc-13-x86-64-linux-gnu_13.3.0-6ubuntu2~24.04cross1_arm64.deb", "13", "13.3.0-6ubuntu2~24.04cross1"),
    ],
)
def test_the_compiler_is_found_among_the_packages(filename: str, major: str, version: str) -> None:
    others = [make_tool("gcc-12-base_12.2.0-14_amd64.deb"), make_tool("cpp-12_12.2.0-14_amd64.deb")]
    assert compiler_of([*others, make_tool(filename)]) == (major, version)

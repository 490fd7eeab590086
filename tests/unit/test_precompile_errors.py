"""Errors of the build's compiler name the module: a wheel has many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from factories import make_session, make_wheel

from builder.errors import BuildError
from builder.image.precompile.loose_modules import oldest_compiler
from builder.image.precompile.module_compiler import WheelModule, compile_modules
from builder.image.precompile.ptxas import Ptxas
from builder.model.audits import GpuTarget
from builder.model.precompiled import PtxModule
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "echo 'error : unknown instruction' >&2; exit 255",
            "cannot compile a module for sm_110",
        ),
        (
            "echo 'fatal : Unsupported .version 9.9' >&2; exit 255",
            "PTX 9.9 is newer than ptxas",
        ),
        ("echo text > module.cubin", "cannot be read"),
    ],
)
def test_a_module_that_cannot_be_compiled_is_named(text: str, message: str, tmp_path: Path) -> None:
    program = tmp_path / "ptxas"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    containers = [make_container(make_entry("sm_90")), make_container(make_entry("ptx_80"))]
    wheel = make_wheel(tmp_path, files={"demo/_C.so": make_library(containers)})
    module = PtxModule(library="demo/_C.so", container=1, ptx=GpuTarget("ptx", 80), isa=(8, 4), sm=110, unpacked=64)
    session = make_session(tmp_path / "models")
    with pytest.raises(BuildError, match=message) as caught:
        compile_modules([WheelModule(wheel, module)], Ptxas(path=program, version="13.0.88"), session)
    assert caught.value.where == "demo/_C.so, container 1, compute_80"


@pytest.mark.parametrize(
    ("isa", "sm", "cuda"),
    [
        ((8, 5), 90, (12, 5)),
        ((8, 6), 90, (12, 8)),
        ((7, 8), 100, (12, 8)),
        ((8, 4), 110, (13, 0)),
        ((9, 9), 90, (13, 9)),
    ],
)
def test_the_compiler_of_loose_wheels_is_one_that_exists(isa: tuple[int, int], sm: int, cuda: tuple[int, int]) -> None:
    module = PtxModule(library="demo/_C.so", container=1, ptx=GpuTarget("ptx", 80), isa=isa, sm=sm, unpacked=64)
    assert oldest_compiler([module]) == cuda

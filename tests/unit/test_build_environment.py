"""What a build knows about its target: variables, CMake's toolchain file, sysconfig and platform."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from build_factory import make_build, make_target, make_tool

from builder.foundry.build_environment import build_environment
from builder.foundry.build_python import BuildPython, build_python, write_target_python
from builder.foundry.cmake_toolchain import write_toolchain

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import LockedBuild

NATIVE = make_build(
    target=make_target(architecture="amd64", gpus=("9.0",)), tools=(make_tool("gcc-12_12.2.0-14_amd64.deb"),)
)
PLAIN = make_build(target=make_target(cuda=None, torch=None, gpus=()), toolchain="cpp")


def test_a_cross_build_gets_the_targets_compilers_and_names() -> None:
    environment = build_environment(make_build(target=make_target(gpus=("8.7", "11.0"))), jobs=3)
    assert environment["CC"] == "aarch64-linux-gnu-gcc-12"
    flags = "-ccbin aarch64-linux-gnu-g++-12 --objdir-as-tempdir"
    assert environment["NVCC_PREPEND_FLAGS"] == f"{flags} --frandom-seed=jbuild"
    older = build_environment(make_build(toolchain="cuda-12.4"), jobs=3)
    assert older["NVCC_PREPEND_FLAGS"] == flags
    assert environment["TORCH_CUDA_ARCH_LIST"] == "8.7;11.0"
    assert environment["_PYTHON_HOST_PLATFORM"] == "linux-aarch64"
    assert environment["MAX_JOBS"] == environment["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    assert environment["SETUPTOOLS_SCM_PRETEND_VERSION_FOR_DEMO"] == "1.0"


def test_a_native_build_gets_the_same_with_its_own() -> None:
    environment = build_environment(NATIVE, jobs=1)
    assert environment["CC"] == "x86_64-linux-gnu-gcc-12"
    assert environment["_PYTHON_HOST_PLATFORM"] == "linux-x86_64"


def test_sources_without_cuda_get_no_variable_of_cuda() -> None:
    assert not {name for name in build_environment(PLAIN, jobs=1) if "CUDA" in name or "NVCC_PREPEND" in name}


def test_the_recipes_variables_come_last() -> None:
    build = make_build(environment=(("TORCH_CUDA_ARCH_LIST", "8.7+PTX"),))
    assert build_environment(build, jobs=1)["TORCH_CUDA_ARCH_LIST"] == "8.7+PTX"


def test_nothing_of_this_machine_enters_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-march=native")
    environment = build_environment(make_build(), jobs=1)
    assert str(Path.home()) not in " ".join(environment.values())
    assert "CFLAGS" not in environment


@pytest.mark.parametrize("build", [make_build(), NATIVE, PLAIN], ids=["cross", "native", "plain"])
def test_the_toolchain_file_names_existing_variables_once(build: LockedBuild, tmp_path: Path) -> None:
    write_toolchain(tmp_path, build)
    text = (tmp_path / "toolchain.cmake").read_text()
    names = [line.partition("(")[2].split()[0] for line in text.splitlines()]
    assert len(set(names)) == len(names)
    assert ("CMAKE_SYSTEM_NAME" in names) == build.is_cross
    assert ("CMAKE_CUDA_COMPILER" in names) == (build.target.cuda is not None)
    assert (tmp_path / "bin/gcc").readlink().name.startswith("aarch64" if build.is_cross else "x86_64")


def test_with_a_sysroot_the_compilers_are_scripts_that_use_it(tmp_path: Path) -> None:
    write_toolchain(tmp_path, PLAIN)
    assert (tmp_path / "bin/g++").is_symlink()
    library = make_tool("libstdc++-11-dev_11.4.0-1_arm64.deb", role="sysroot")
    write_toolchain(tmp_path, make_build(tools=(make_tool(), library)))
    for name in ("c++", "aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++-12"):
        program = tmp_path / "bin" / name
        assert os.access(program, os.X_OK)
        assert not program.is_symlink()
        text = program.read_text()
        assert "exec /usr/bin/aarch64-linux-gnu-g++-12 --sysroot=/foundry/sysroot" in text
        assert "/foundry/sysroot/usr/include/c++/11:" in text
    assert (tmp_path / "bin/ld").readlink() == Path("/usr/bin/aarch64-linux-gnu-ld")
    assert 'CMAKE_FIND_ROOT_PATH "/foundry/sysroot"' in (tmp_path / "toolchain.cmake").read_text()


def _own_python(session: Session) -> BuildPython:
    return build_python(f"{sys.version_info.major}.{sys.version_info.minor}", session)


def _ask(folder: Path, build: LockedBuild, program: str) -> str:
    environment = build_environment(build, jobs=1) | {"PYTHONPATH": str(folder / "site"), "PATH": os.environ["PATH"]}
    environment["LD_LIBRARY_PATH"] = f"{sysconfig.get_config_var('LIBDIR')}"
    argv = [sys.executable, "-c", program]
    return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_sysconfig_answers_for_the_target(session: Session, tmp_path: Path) -> None:
    build = make_build()
    write_target_python(tmp_path, _own_python(session), build)
    program = "import sysconfig as s; print(s.get_platform(), s.get_config_var('EXT_SUFFIX'), s.get_config_var('CXX'))"
    platform, suffix, compiler = _ask(tmp_path, build, program).split()
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    assert (platform, suffix) == ("linux-aarch64", f".cpython-{version}-aarch64-linux-gnu.so")
    assert compiler == "aarch64-linux-gnu-g++-12"


def test_no_path_of_the_interpreter_stays_in_sysconfig(session: Session, tmp_path: Path) -> None:
    python = _own_python(session)
    write_target_python(tmp_path, python, make_build())
    (data,) = (tmp_path / "site").glob("_sysconfigdata*")
    assert str(python.prefix) not in data.read_text()


def test_platform_answers_for_the_target(session: Session, tmp_path: Path) -> None:
    write_target_python(tmp_path, _own_python(session), make_build())
    program = "import target_platform, platform, os; print(platform.machine(), os.uname().machine)"
    assert _ask(tmp_path, make_build(), program) == "aarch64 aarch64"


def test_assembly_of_another_architecture_leaves_pyconfig(session: Session, tmp_path: Path) -> None:
    write_target_python(tmp_path, _own_python(session), make_build())
    assert "#define HAVE_GCC_ASM_FOR_X64" not in (tmp_path / "pyconfig.h").read_text()

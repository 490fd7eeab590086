"""The cause of a failed build, out of whole logs of real builds (`build_logs/`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from build_factory import make_build

from builder.foundry.build_failure import failure_of
from builder.host.console import TAIL_LINES

if TYPE_CHECKING:
    from builder.errors import BuildError

LOGS = Path(__file__).with_name("build_logs")
# The log, our message, and what the shown part of the log must have.
CASES = {
    "unit": ("bad.o does not compile", "error: 'int' is not a class, struct, or union type"),
    "setuptools": ("bad.cpp does not compile", "error: 'undeclared' was not declared in this scope"),
    "header": ("the build includes zmq.hpp, which neither the source nor the toolchain has", "zmq.hpp: No such file"),
    "killed": ("the kernel killed a compiler, as it does when memory is short", "Killed signal terminated program"),
    "gcc-too-new": ("the host compiler is too new for this nvcc, which accepts gcc 15 and older", "host_config.h"),
    "network": (
        "the build asked for the network, which its sandbox does not have",
        "Temporary failure in name resolution",
    ),
    "fetch-content": (
        "the build asked for the network, which its sandbox does not have",
        "could not find git for clone of abseil-cpp-populate",
    ),
    "target-code": (
        (
            "the build of this package runs torch.cuda.get_device_capability() on the machine that builds, which has "
            "neither the target's GPU nor its torch"
        ),
        "TargetCodeError",
    ),
    "module": ("the build imports Cython, which the project does not state as a build requirement", "No module named"),
    "cmake": ("the project's build failed", "Can't find CUDA or HIP installation."),
    "program": ("the build runs the program cmake, which its sandbox lacks", "build_bundled.sh"),
}


def _failure(name: str, *, code: int = 1, jobs: int = 2) -> BuildError:
    return failure_of(make_build(), (LOGS / f"{name}.log").read_text().splitlines(), code, jobs)


@pytest.mark.parametrize("name", CASES)
def test_a_real_log_has_one_cause(name: str) -> None:
    error = _failure(name)
    message, shown = CASES[name]
    assert error.message == message
    assert shown in (error.log or "")
    assert error.hint
    assert error.where == "demo 1.0"


@pytest.mark.parametrize("name", CASES)
def test_the_shown_log_is_short_and_without_frames_of_tools(name: str) -> None:
    log = _failure(name).log or ""
    assert len(log.splitlines()) <= TAIL_LINES
    assert not re.search(r'File ".*site-packages', log)


def test_one_job_that_was_killed_gets_other_advice() -> None:
    assert "--jobs 1" in (_failure("killed", jobs=2).hint or "")
    assert "--jobs 1" not in (_failure("killed", jobs=1).hint or "")


@pytest.mark.parametrize("code", [-9, 137])
def test_a_killed_backend_is_short_of_memory(code: int) -> None:
    error = failure_of(make_build(), ["running build_ext"], code, 2)
    assert error.message.startswith("the kernel killed a compiler")


def test_a_tolerated_download_is_not_the_cause() -> None:
    attempt = [
        "urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>",
        "building instead",
    ]
    lines = [*attempt, *(LOGS / "unit.log").read_text().splitlines()]
    assert failure_of(make_build(), lines, 1, 2).message == "bad.o does not compile"


def test_an_unknown_end_shows_the_last_lines() -> None:
    error = failure_of(make_build(), [f"line {number}" for number in range(100)], 1, 2)
    assert error.message == "the project's build failed"
    assert (error.log or "").splitlines()[-1] == "line 99"

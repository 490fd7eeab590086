"""Checks the container engine, its builders, its image store and its GPU runtime."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.process import find_program, run
from builder.jetson.device import this_device
from builder.pipeline.builders import ask, buildx
from builder.project.doctor.check_table import ok, problem, skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.engine.docker import Engine
    from builder.project.doctor.check_records import Check, DoctorContext

_ANSWER_S = 20
_ABSENT = "no socket"
_SCRIPT = Path(__file__).parents[3] / "scripts" / "engine"
_NVIDIA_PROGRAM = "nvidia-container-runtime"


def engine_script() -> str:
    """Return the program that starts jbuild's own engine; only a checkout of jbuild has it."""
    return str(_SCRIPT)


def can_start_engine() -> bool:
    """Return whether that program exists and can run without more rights."""
    return _SCRIPT.is_file() and os.geteuid() == 0


def check(case: DoctorContext) -> Iterator[Check]:
    """Check the engine and its builders."""
    engine = case.engine
    if engine is None:
        yield _no_engine(case)
        return
    yield ok("engine", f"Docker {engine.version} at {engine.endpoint}")
    yield from _buildx(engine, case.session.config.builders)
    yield _store(engine)
    yield _runtime(engine, case.root)


def _no_engine(case: DoctorContext) -> Check:
    """Return the problem. jbuild's own engine is a fix only on machines without one: a stopped engine has an owner."""
    if os.environ.get("DOCKER_HOST"):
        return problem("engine", "named", case.refusal, fix=case.hint)
    if _ABSENT not in case.refusal:
        return problem("engine", "refused", case.refusal, fix=case.hint)
    fixable, script = can_start_engine(), engine_script()
    return problem("engine", "none", case.refusal, fixable=fixable, fix=case.hint, script=script)


def _buildx(engine: Engine, builders: tuple[str, ...]) -> Iterator[Check]:
    if find_program("docker") is None:
        yield problem("buildx", "no-docker", "the docker command is not installed")
        return
    done = run(["docker", "buildx", "version"], env=engine.environment(), timeout_s=_ANSWER_S, check=False)
    if done.code:
        yield problem("buildx", "no-buildx", "`docker buildx` does not work")
        return
    yield ok("buildx", done.stdout.strip())
    for name in builders or (None,):
        yield _builder(engine, name)


def _builder(engine: Engine, name: str | None) -> Check:
    label = name or "the engine's own"
    try:
        dead = ask(name, engine) if name else None
        output = run(buildx("inspect", name), env=engine.environment(), timeout_s=_ANSWER_S).stdout
    except JbuildError as error:
        return problem("builder", "silent", f"{label}: {error.message}", builder=name or "")
    if dead:
        return problem("builder", "silent", f"{label}: {dead}", builder=name or "")
    platforms = sorted(set(re.findall(r"linux/\w+", output)))
    if "linux/arm64" not in platforms:
        text = f"{label} builds for {', '.join(platforms) or 'nothing'}"
        return problem("builder", "no-arm64", text, builder=name or "")
    return ok("builder", f"{label}: {', '.join(platforms)}")


def _store(engine: Engine) -> Check:
    if engine.containerd_store:
        return ok("image store", "containerd")
    return problem("image store", "old", "the engine's old store")


def _runtime(engine: Engine, root: Path) -> Check:
    """Check the GPU runtime, which a Jetson needs and a machine without an NVIDIA GPU does not."""
    is_listed = "nvidia" in engine.runtimes
    if is_listed and engine.is_local and not find_program(_NVIDIA_PROGRAM):
        return problem("GPU runtime", "no-program", f"the engine lists nvidia, but there is no {_NVIDIA_PROGRAM}")
    if is_listed:
        return ok("GPU runtime", "nvidia")
    if not engine.is_local:
        return skipped("GPU runtime", "the engine on another machine lists none")
    if find_program(_NVIDIA_PROGRAM):
        return problem("GPU runtime", "not-configured", f"{_NVIDIA_PROGRAM} is installed, but not set in the engine")
    if this_device(root) or (root / "proc" / "driver" / "nvidia").is_dir():
        return problem("GPU runtime", "none", "this machine has an NVIDIA GPU, but the engine has no runtime for it")
    return skipped("GPU runtime", "no NVIDIA GPU: images are tested on a board")

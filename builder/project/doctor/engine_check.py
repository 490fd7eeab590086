"""The container engine, its builders, its image store and its GPU runtime."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.process import find_program, run
from builder.jetson.device import this_device
from builder.pipeline.builders import ask, buildx
from builder.project.doctor.check_table import fine, idle, trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.engine.docker import Engine
    from builder.project.doctor.check_records import Check, DoctorContext

_ANSWER_S = 20
_ABSENT = "no socket"
_SCRIPT = Path(__file__).parents[3] / "scripts" / "engine"
_NVIDIA_PROGRAM = "nvidia-container-runtime"


def engine_script() -> str:
    """Return the program that starts an engine of jbuild's own; a checkout has it, an installed jbuild has not."""
    return str(_SCRIPT)


def can_start_engine() -> bool:
    """Return whether that program is here and may do its work without asking for rights."""
    return _SCRIPT.is_file() and os.geteuid() == 0


def check(case: DoctorContext) -> Iterator[Check]:
    """Look at the engine and at what builds in it."""
    engine = case.engine
    if engine is None:
        yield _no_engine(case)
        return
    yield fine("engine", f"Docker {engine.version} at {engine.endpoint}")
    yield from _buildx(engine, case.session.config.builders)
    yield _store(engine)
    yield _runtime(engine, case.root)


def _no_engine(case: DoctorContext) -> Check:
    """One of our own is started only where there is none at all: what is stopped, or refuses us, is somebody's."""
    if os.environ.get("DOCKER_HOST"):
        return trouble("engine", "named", case.refusal, mend=case.mend)
    if _ABSENT not in case.refusal:
        return trouble("engine", "refused", case.refusal, mend=case.mend)
    fixable, script = can_start_engine(), engine_script()
    return trouble("engine", "none", case.refusal, fixable=fixable, mend=case.mend, script=script)


def _buildx(engine: Engine, builders: tuple[str, ...]) -> Iterator[Check]:
    if find_program("docker") is None:
        yield trouble("buildx", "no-docker", "there is no docker command")
        return
    done = run(["docker", "buildx", "version"], env=engine.environment(), timeout_s=_ANSWER_S, check=False)
    if done.code:
        yield trouble("buildx", "no-buildx", "`docker buildx` does not work")
        return
    yield fine("buildx", done.stdout.strip())
    for name in builders or (None,):
        yield _builder(engine, name)


def _builder(engine: Engine, name: str | None) -> Check:
    shown = name or "the engine's own"
    try:
        dead = ask(name, engine) if name else None
        said = run(buildx("inspect", name), env=engine.environment(), timeout_s=_ANSWER_S).stdout
    except JbuildError as error:
        return trouble("builder", "silent", f"{shown}: {error.message}", builder=name or "")
    if dead:
        return trouble("builder", "silent", f"{shown}: {dead}", builder=name or "")
    platforms = sorted(set(re.findall(r"linux/\w+", said)))
    if "linux/arm64" not in platforms:
        found = f"{shown} builds for {', '.join(platforms) or 'nothing'}"
        return trouble("builder", "no-arm64", found, builder=name or "")
    return fine("builder", f"{shown}: {', '.join(platforms)}")


def _store(engine: Engine) -> Check:
    if engine.containerd_store:
        return fine("image store", "containerd")
    return trouble("image store", "old", "the engine's old store")


def _runtime(engine: Engine, root: Path) -> Check:
    """A machine without an NVIDIA GPU needs no runtime; a Jetson always does."""
    listed = "nvidia" in engine.runtimes
    if listed and engine.is_local and not find_program(_NVIDIA_PROGRAM):
        return trouble("GPU runtime", "no-program", f"the engine lists nvidia, but there is no {_NVIDIA_PROGRAM}")
    if listed:
        return fine("GPU runtime", "nvidia")
    if not engine.is_local:
        return idle("GPU runtime", "the engine is on another machine and lists none")
    if find_program(_NVIDIA_PROGRAM):
        return trouble("GPU runtime", "not-configured", f"{_NVIDIA_PROGRAM} is here, but the engine is not told of it")
    if this_device(root) or (root / "proc" / "driver" / "nvidia").is_dir():
        return trouble("GPU runtime", "none", "this machine has an NVIDIA GPU, and the engine no runtime for it")
    return idle("GPU runtime", "no NVIDIA GPU here: images are asked on a board")

"""Checks the programs that jbuild runs: uv, cosign if images are signed, and the container engine with its builders."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, requires
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.version import Version

from builder.errors import JbuildError
from builder.host.engine.gpu_access import BY_RUNTIME
from builder.host.paths import ENGINE_SCRIPT
from builder.host.process import find_program, run
from builder.jetson.device import this_device
from builder.pipeline.builders import ask, buildx
from builder.project.doctor.check_table import ok, problem, skipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.host.config import Config
    from builder.host.engine.docker import Engine
    from builder.project.doctor.check_table import Check, DoctorContext

_ANSWER_S = 20
# Used in a checkout that is not installed, without package metadata.
_LEAST_UV = "0.8"
_ABSENT = "no socket"
_NVIDIA_PROGRAM = "nvidia-container-runtime"


def check(case: DoctorContext) -> Iterator[Check]:
    """Check uv, and cosign if the configuration has keys."""
    yield _uv()
    if case.session.config.cosign_key or case.session.config.trusted_keys:
        path = find_program("cosign")
        yield ok("cosign", path) if path else problem("cosign", "missing", "not installed")


def _uv() -> Check:
    from builder.lock.solve import uv  # noqa: PLC0415  # slow to import

    least = _least()
    try:
        output = run([uv(), "--version"], timeout_s=_ANSWER_S).stdout.strip()
    except (JbuildError, FileNotFoundError) as error:
        return problem("uv", "missing", str(error), least=least)
    version = re.search(r"\d+(\.\d+)+", output)
    if version is None or Version(version[0]) < Version(least):
        return problem("uv", "old", f"{output}; {least} or newer is needed", least=least)
    return ok("uv", output)


def _least() -> str:
    try:
        requirements = [Requirement(text) for text in requires("jbuild") or ()]
    except PackageNotFoundError:
        return _LEAST_UV
    return next(
        (specifier.version for item in requirements if item.name == "uv" for specifier in item.specifier), _LEAST_UV
    )


def can_start_engine() -> bool:
    """Return whether the program that starts jbuild's own engine exists and can run without more rights."""
    return ENGINE_SCRIPT.is_file() and os.geteuid() == 0


def engine(case: DoctorContext) -> Iterator[Check]:
    """Check the engine, its builders, its image store and its GPU runtime."""
    found = case.engine
    if found is None:
        yield _no_engine(case)
        return
    yield ok("engine", f"Docker {found.version} at {found.endpoint}")
    if case.builds:
        yield from _buildx(found, case.session.config)
        store = found.containerd_store
        yield ok("image store", "containerd") if store else problem("image store", "old", "the engine's old store")
    yield _runtime(found, case.root)


def _no_engine(case: DoctorContext) -> Check:
    """Return the problem. jbuild's own engine is a fix only on machines without one: a stopped engine has an owner."""
    named = bool(os.environ.get("DOCKER_HOST"))
    if named and "DOCKER_HOST" not in case.hint:
        return problem("engine", "named", case.refusal, fix=case.hint)
    if named or _ABSENT not in case.refusal:
        return problem("engine", "refused", case.refusal, fix=case.hint)
    fixable, script = can_start_engine(), str(ENGINE_SCRIPT)
    return problem("engine", "none", case.refusal, fixable=fixable, fix=case.hint, script=script)


def _buildx(engine: Engine, config: Config) -> Iterator[Check]:
    if find_program("docker") is None:
        yield problem("buildx", "no-docker", "the docker command is not installed")
        return
    done = run(["docker", "buildx", "version"], env=engine.environment(), timeout_s=_ANSWER_S, check=False)
    if done.code:
        yield problem("buildx", "no-buildx", "`docker buildx` does not work")
        return
    yield ok("buildx", done.stdout.strip())
    for name in config.builders or (None,):
        yield _builder(engine, name)
    if config.runner:
        yield _runner(engine, config.runner)


def _runner(engine: Engine, name: str) -> Check:
    try:
        reason = ask(name, engine.environment())
    except JbuildError as error:
        reason = error.message
    return problem("runner", "silent", f"{name}: {reason}", runner=name) if reason else ok("runner", name)


def _builder(engine: Engine, name: str | None) -> Check:
    label = name or "the engine's own"
    try:
        dead = ask(name, engine.environment()) if name else None
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


def _runtime(engine: Engine, root: Path) -> Check:
    """Check the way to the GPU, which a Jetson needs and a machine without an NVIDIA GPU does not."""
    if engine.gpu:
        is_missing = engine.gpu == BY_RUNTIME and engine.is_local and not find_program(_NVIDIA_PROGRAM)
        if is_missing:
            return problem("GPU runtime", "no-program", f"the engine lists nvidia, but there is no {_NVIDIA_PROGRAM}")
        return ok("GPU runtime", f"{engine.gpu.described}; `run.gpu` in jbuild.toml overrides it")
    if not engine.is_local:
        return skipped("GPU runtime", "the engine on another machine lists none")
    if find_program(_NVIDIA_PROGRAM):
        return problem("GPU runtime", "not-configured", f"{_NVIDIA_PROGRAM} is installed, but not set in the engine")
    if this_device(root) or (root / "proc" / "driver" / "nvidia").is_dir():
        return problem("GPU runtime", "none", "this machine has an NVIDIA GPU, but the engine has no runtime for it")
    return skipped("GPU runtime", "no NVIDIA GPU: images are tested on a board")

"""The build tools of a cell: the wheels of `ptxas` for the machines that build, where the build compiles kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from builder.errors import LockError, NoWheelsError
from builder.lock import lockfile
from builder.lock.index_sources import PTXAS, locks_tools
from builder.lock.solve import SolveRequest, solve
from builder.lock.wheel_properties import measured
from builder.model.recipes import Architecture, Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.model.platforms import Platform
    from builder.model.wheels import LockedWheel

# Since CUDA 13 the names of NVIDIA's wheels have no suffix.
_LAST_WITH_SUFFIX = 12
_ALL = "*"
PTXAS_OFF = 'set `precompile = "off"` under [image], which leaves the compilation to the board'


def package_of(cuda: str) -> str:
    """Return the package that has `ptxas` of a CUDA release."""
    major = cuda.partition(".")[0]
    return f"nvidia-cuda-nvcc-cu{major}" if int(major) <= _LAST_WITH_SUFFIX else "nvidia-cuda-nvcc"


def lock_tools(
    job: Job, session: Session, before: Lock | None, upgrade: Sequence[str]
) -> tuple[LockedWheel, ...] | None:
    """Return the wheels with `ptxas` of the cell's CUDA release for every build machine; None if nothing is compiled.

    Those of the lock before stay if they are of the same release.

    Raises:
        NoWheelsError: the index has none.
        LockError, NetworkError: it cannot be asked.
    """
    cuda = job.platform.cuda
    if cuda is None or not locks_tools(job):
        return None
    name = package_of(cuda)
    stored = before.tools if before and _ALL not in upgrade and name not in upgrade else None
    if stored and all(wheel.name == name and wheel.version.startswith(f"{cuda}.") for wheel in stored):
        return stored
    requirement = f"{name}=={cuda}.*"
    tools: list[LockedWheel] = []
    for architecture in get_args(Architecture):
        wheel = ptxas_wheel(requirement, replace(job.platform, architecture=architecture), session, job.spec)
        tools.append(wheel)
        requirement = f"{name}=={wheel.version}"
    return measured(tools, session)


def ptxas_wheel(requirement: str, platform: Platform, session: Session, spec: Spec | None = None) -> LockedWheel:
    """Return the wheel with `ptxas` for a machine that builds.

    Raises:
        NoWheelsError: the index has none.
        LockError, NetworkError: it cannot be asked.
    """
    asked = Spec(requires=(requirement,), released_before=spec.released_before if spec else None)
    try:
        # The program needs none of the packages that a compiler of CUDA needs.
        question = SolveRequest(spec=asked, platform=platform, dependencies=False)
        text = solve(question, session.config, session.workspace)
    except NoWheelsError as error:
        hint = f"use an index that has it, or {PTXAS_OFF}"
        message = f"no index has ptxas for {platform.architecture}"
        raise NoWheelsError(message, where=requirement, hint=hint, log=error.log) from error
    name = requirement.partition("=")[0]
    wheels = lockfile.wheels_of(text, platform, PTXAS)
    wheel = next((wheel for wheel in wheels if wheel.name == name), None)
    if wheel is None:
        raise LockError("uv's lock lacks the package that was asked for", where=requirement, hint="update uv or jbuild")
    return wheel

"""The modules of a cell that the build compiles: chosen by its kernels, made with the locked `ptxas`."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from builder.audit.gather_facts import gather
from builder.audit.gather_kernels import gather_kernels
from builder.audit.precompile_choice import modules_of_wheel, needed_kernels
from builder.errors import LockError
from builder.image.precompile.module_compiler import WheelModule, compile_modules
from builder.image.precompile.ptxas import ptxas_of
from builder.lock.index_sources import locks_tools
from builder.model.precompiled import CompiledWheel
from builder.models.preflight.server_context import server_context
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from builder.host.session import Session
    from builder.image.precompile.module_compiler import FetchCubin
    from builder.model.locks import Job, Lock
    from builder.model.wheels import LockedWheel


def cell_modules(job: Job, lock: Lock, slimmed: Collection[str], session: Session) -> dict[str, CompiledWheel]:
    """Return what the build compiles of the wheels that are slimmed, by their sha256.

    Raises:
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched, or its kernels cannot be stored.
        LockError: the lock has no `ptxas`.
    """
    if not locks_tools(job):
        return {}
    wheels = [wheel for wheel in lock.wheels if wheel.sha256 in slimmed]
    kernels = gather_kernels(wheels, gather(wheels, session), session)
    needed = needed_kernels(job, server_context(job, lock, session))
    compiled = {}
    for wheel in wheels:
        if modules := modules_of_wheel(job, wheel.name, kernels.get(wheel.sha256, ()), needed):
            compiled[wheel.sha256] = CompiledWheel(ptxas=_tool(lock).version, modules=modules)
    return compiled


def provide_cubins(
    lock: Lock, compiled: Mapping[str, CompiledWheel], session: Session, fetch_cubin: FetchCubin
) -> None:
    """Put the compiled modules of wheels into the cache, by their sha256.

    Raises:
        BuildError: a module cannot be compiled.
        NetworkError, IntegrityError, DiskError: a wheel cannot be fetched or stored.
    """
    if not compiled:
        return
    tool, workspace = _tool(lock), session.workspace
    wheels = [wheel for wheel in lock.wheels if wheel.sha256 in compiled]
    fetch([tool, *wheels], session)
    modules = [
        WheelModule(workspace.wheel(wheel.sha256, wheel.filename), module)
        for wheel in wheels
        for module in compiled[wheel.sha256].modules
    ]
    count = compile_modules(modules, ptxas_of(tool, workspace), session, fetch_cubin)
    session.console.say(f"{lock.cell}: {count} of {len(modules)} modules compiled, the others from the cache")


def _tool(lock: Lock) -> LockedWheel:
    """Return the wheel with `ptxas` for this machine.

    Raises:
        LockError: the lock has none.
    """
    machine = platform.machine()
    wheel = next((wheel for wheel in lock.tools or () if machine in wheel.filename), None)
    if wheel is None:
        hint = f"run `jbuild lock {lock.recipe} --cell {lock.cell}`, on a machine with x86_64 or aarch64"
        raise LockError(f"the lock has no ptxas for this machine ({machine})", where=lock.cell, hint=hint)
    return wheel

"""The modules of loose wheels that `jbuild slim --precompile` compiles, with `ptxas` of the CUDA that made them."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from builder.audit import wheel_reader
from builder.audit.byte_source import File
from builder.audit.gather_kernels import read_kernels
from builder.audit.gpu_rules import compiler_of
from builder.audit.precompile_choice import every_kernel, modules_to_compile
from builder.audit.rule_tables import major_minor, tables
from builder.audit.slim_tables import slim_tables
from builder.errors import BuildError, LockError, UsageError
from builder.image.precompile.module_compiler import WheelModule, compile_modules
from builder.image.precompile.ptxas import ptxas_of
from builder.jetson.distributions import platforms
from builder.lock.build_tools import PTXAS_OFF, package_of, ptxas_wheel
from builder.lock.wheel_properties import measured
from builder.model.platforms import Platform
from builder.model.precompiled import CompiledWheel
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.precompiled import PtxModule
    from builder.model.recipes import Architecture
    from builder.model.slimming import SlimRules

_ELF = b"\x7fELF"
_ARCHITECTURES: dict[str, Architecture] = {"x86_64": "amd64", "aarch64": "arm64"}


def compile_loose(
    wheels: Sequence[Path], rules: SlimRules, l4t: str | None, session: Session
) -> dict[Path, CompiledWheel]:
    """Compile all modules of wheels that a GPU would compile, and return what was compiled of each.

    `ptxas` is that of the driver of an L4T release, else the oldest that knows both the PTX and the GPUs.

    Raises:
        UsageError: this machine has no `ptxas`.
        BuildError: a module cannot be compiled.
        MalformedError: a wheel cannot be read.
        LockError, NetworkError, IntegrityError, DiskError: `ptxas` cannot be fetched.
    """
    modules = {wheel: rows for wheel in wheels if (rows := _modules(wheel, rules, session))}
    if not modules:
        return {}
    every = [WheelModule(wheel, module) for wheel, rows in modules.items() for module in rows]
    cuda = "{}.{}".format(*(_driver(l4t) or oldest_compiler([row.module for row in every])))
    try:
        tool = measured([ptxas_wheel(f"{package_of(cuda)}=={cuda}.*", _this_machine(), session)], session)[0]
        fetch([tool], session)
        ptxas = ptxas_of(tool, session.workspace)
        compile_modules(every, ptxas, session)
    except (BuildError, LockError) as error:
        # There is no recipe to change.
        error.hint = error.hint and error.hint.replace(PTXAS_OFF, "leave --precompile out")
        raise
    return {wheel: CompiledWheel(ptxas=ptxas.version, modules=rows) for wheel, rows in modules.items()}


def _driver(l4t: str | None) -> tuple[int, int] | None:
    return next((major_minor(row.cuda) for row in platforms() if row.l4t == l4t), None) if l4t else None


def oldest_compiler(modules: Sequence[PtxModule]) -> tuple[int, int]:
    """Return the oldest CUDA release with a compiler that knows the PTX and the GPUs of all modules."""
    known, without = dict(slim_tables().compilers), slim_tables().driver_only
    needed = max(max(compiler_of(module.isa), known.get(module.sm, (0, 0))) for module in modules)
    return min((cuda for _, cuda in tables().ptx if cuda >= needed and cuda not in without), default=needed)


def _modules(wheel: Path, rules: SlimRules, session: Session) -> tuple[PtxModule, ...]:
    data = File(wheel)
    members = wheel_reader.listing(wheel).members
    libraries = [member.path for member in members if wheel_reader.head(data, member, len(_ELF)) == _ELF]
    kernels = read_kernels({wheel.name: (wheel, libraries)}, session)[wheel.name]
    return tuple(module for library in kernels for module in modules_to_compile(library, rules, every_kernel))


def _this_machine() -> Platform:
    """Return this machine as a platform to solve for: the wheels of `ptxas` need only an old glibc.

    Raises:
        UsageError: NVIDIA has no `ptxas` for it.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        hint = "run it on a machine with x86_64 or aarch64"
        raise UsageError(f"--precompile: ptxas is not available for this machine ({machine})", hint=hint)
    return Platform(
        name="this machine",
        architecture=_ARCHITECTURES[machine],
        distribution="",
        release="",
        python="3.12",
        glibc="2.35",
        base="",
    )

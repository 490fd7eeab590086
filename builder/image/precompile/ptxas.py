"""NVIDIA's assembler `ptxas`, from a wheel: it compiles PTX to a cubin, as the driver would on the board."""

from __future__ import annotations

import re
import shlex
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.audit import kernel_names
from builder.audit.byte_source import MalformedError
from builder.audit.code_targets import target_name
from builder.errors import BuildError, ProgramFailedError, ProgramMissingError
from builder.host.files import atomic_file, disk_errors, work_folder
from builder.host.process import run
from builder.lock.build_tools import PTXAS_OFF

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.audits import GpuTarget
    from builder.model.wheels import LockedWheel

_PROGRAM = re.compile(r"nvidia/[^/]+/bin/ptxas")
_RELEASE = re.compile(r"release \d+\.\d+, V(\d+\.\d+\.\d+)")
_NEWER = re.compile(r"Unsupported \.version (?P<isa>[\d.]+)|PTX version (?P<other>[\d.]+) does not support")
_UNKNOWN_GPU = re.compile(r"Value '\w+' is not defined for option '(?:gpu-name|arch)'")
# The options of a module's own compilation that change its code; others only print.
_KNOWN_OPTIONS = re.compile(
    r"-O[0-4]|-v|--?(opt-level|dlcm|dscm|fmad|maxrregcount|warn-[a-z-]+)(=[a-z0-9]+)?|[a-z0-9]+"
)
_KILLED = (-9, 137)
_LONGEST_LOG = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Ptxas:
    """The program and its version (`13.0.88`)."""

    path: Path
    version: str

    def compile(self, ptx: bytes, target: GpuTarget, options: tuple[str, ...] = ()) -> bytes:
        """Return the cubin of a module: the same PTX, target, options and version give the same bytes.

        Raises:
            BuildError: `ptxas` refuses or ends early, or the cubin does not have the PTX's kernels.
            ProgramMissingError: it cannot be run.
        """
        arch = target_name(target)
        with work_folder("jbuild-ptxas") as folder, disk_errors(folder):
            (folder / "module.ptx").write_bytes(ptx)
            # Names without a folder: the program may write them into the cubin.
            argv = [str(self.path), f"-arch={arch}", "-m64", *options, "module.ptx", "-o", "module.cubin"]
            try:
                run(argv, cwd=folder, env={"TMPDIR": str(folder)})
            except (ProgramMissingError, OSError) as error:
                raise _not_runnable(self.path) from error
            except ProgramFailedError as error:
                raise _failure(error, self.version, arch) from error
            cubin = (folder / "module.cubin").read_bytes()
        check_kernels(cubin, ptx, f"ptxas {self.version} for {arch}")
        return cubin


def check_kernels(cubin: bytes, ptx: bytes, origin: str) -> None:
    """Check that a cubin has exactly the kernels of its PTX.

    Raises:
        BuildError: it does not.
    """
    try:
        names = sorted(kernel_names.names(cubin, "sass"))
    except MalformedError as error:
        raise BuildError(f"the result of {origin} cannot be read: {error.message}", hint=_REPORT) from error
    if names != sorted(kernel_names.names(ptx, "ptx")):
        raise BuildError(f"the result of {origin} does not have the kernels of its PTX", hint=_REPORT)


_REPORT = f"report it to jbuild's authors; until then {PTXAS_OFF}"


def ptxas_of(wheel: LockedWheel, workspace: Workspace) -> Ptxas:
    """Return the program of a wheel in the wheelhouse, after unpacking it once.

    Raises:
        BuildError: the wheel has no `ptxas`, or it does not run on this machine.
        DiskError: it cannot be unpacked.
    """
    path = workspace.tool(wheel.sha256, "ptxas")
    if not path.is_file():
        content = _program(workspace.wheel(wheel.sha256, wheel.filename))
        with disk_errors(path), atomic_file(path) as temporary:
            temporary.write_bytes(content)
        path.chmod(0o755)
    return Ptxas(path=path, version=_version(path))


def _program(wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next((name for name in archive.namelist() if _PROGRAM.fullmatch(name)), None)
            if name:
                return archive.read(name)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        hint = "remove the file, then run the same command again"
        raise BuildError(f"the wheel of ptxas cannot be read: {error}", where=str(wheel), hint=hint) from error
    raise BuildError("the wheel has no ptxas", where=wheel.name, hint=f"run `jbuild lock --force`, or {PTXAS_OFF}")


def _version(path: Path) -> str:
    try:
        output = run([str(path), "--version"]).stdout
    except (ProgramMissingError, ProgramFailedError, OSError) as error:
        # The kernel refuses programs for other machines with an error of its own.
        raise _not_runnable(path) from error
    match = _RELEASE.search(output)
    if not match:
        raise BuildError("ptxas does not print its version", where=str(path), hint=_REPORT, log=output)
    return match[1]


def _not_runnable(path: Path) -> BuildError:
    return BuildError(
        "ptxas does not run on this machine", where=str(path), hint=f"build on another machine, or {PTXAS_OFF}"
    )


def _failure(error: ProgramFailedError, version: str, arch: str) -> BuildError:
    log = error.output[-_LONGEST_LOG:]
    if error.code in _KILLED:
        hint = f"close other programs, or give this machine more memory (a module needs up to 1 GB); or {PTXAS_OFF}"
        return BuildError(f"ptxas {version} was killed, as the kernel does when memory is short", hint=hint, log=log)
    if newer := _NEWER.search(error.output):
        isa = newer["isa"] or newer["other"]
        hint = f"take wheels for the cell's own CUDA release, or {PTXAS_OFF}; the board's driver is as old"
        return BuildError(f"a wheel's PTX {isa} is newer than ptxas {version}", hint=hint, log=log)
    if _UNKNOWN_GPU.search(error.output):
        return BuildError(f"ptxas {version} does not know {arch}", hint=f"choose a newer CUDA, or {PTXAS_OFF}", log=log)
    return BuildError(f"ptxas {version} cannot compile a module for {arch}", hint=_REPORT, log=log)


def options_of(text: bytes) -> tuple[str, ...] | None:
    """Return the options that a module was compiled with, or None if jbuild does not know one of them."""
    try:
        words = tuple(shlex.split(text.decode("ascii")))
    except (UnicodeDecodeError, ValueError):
        return None
    return words if all(_KNOWN_OPTIONS.fullmatch(word) for word in words) else None

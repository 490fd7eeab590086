"""Static checks of a built wheel beyond those of the audit: what only its builder can promise."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.audit import wheel_reader
from builder.audit.byte_source import File
from builder.audit.code_targets import runs_natively
from builder.audit.rule_tables import version_numbers
from builder.errors import AuditError
from builder.jetson.boards import dotted_sm, sm_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.audit.audit_context import AuditContext
    from builder.audit.byte_source import ByteSource
    from builder.audit.environment import Node
    from builder.model.audits import Binary, GpuTarget
    from builder.model.builds import BuildTarget, LockedBuild

_SUFFIX = re.compile(r"\.cpython-3[0-9]+[a-z]*-(?P<machine>[^.]+)\.so$")
_MACHINES = {"arm64": "aarch64-linux-gnu", "amd64": "x86_64-linux-gnu"}
# A library registers its GPU code with the runtime by this function. Without it, the runtime is inside the library,
# or the library loads its code through the driver.
_REGISTERS, _RUNTIME = "__cudaRegisterFatBinary", "libcudart.so."
# The static runtime opens the driver by this name.
_DRIVER = b"libcuda.so.1"
# From this CUDA on, SBSA and Tegra have one runtime.
_FIRST_COMMON = 13
_BLOCK = 1 << 22
_OTHER_LIBRARY = (
    "the build used other headers than those of the toolchain, or a static library that was built against a newer C "
    "library: take such paths out of the package's build"
)
_MACHINES_LIBRARY = (
    "the build used this machine's C library: {}. Lock again where the base image and its package sources can be "
    "reached, or build on a distribution that is not newer than the base image's"
)
_MOST_NAMED = 5


def check_suffixes(binaries: Iterable[Binary], target: BuildTarget) -> None:
    """Refuse modules that the target's Python does not see because of their names.

    Raises:
        AuditError: there are some.
    """
    right = _MACHINES[target.architecture]
    for binary in binaries:
        match = _SUFFIX.search(binary.path)
        if match and match["machine"] != right:
            raise AuditError(
                f"{binary.path} is named for {match['machine']}, so Python does not find it on {right}",
                hint="the package computes the suffix itself: patch its source to use EXT_SUFFIX of sysconfig",
            )


def check_glibc(binaries: Iterable[Binary], build: LockedBuild) -> None:
    """Refuse symbols of a newer C library than the target's.

    Raises:
        AuditError: there are some.
    """
    glibc = build.target.glibc
    for binary in binaries:
        newer = [n for n in binary.names if "@GLIBC_2" in n and _version(n) > version_numbers(glibc)]
        if newer:
            hint = _MACHINES_LIBRARY.format(build.without_sysroot) if build.without_sysroot else _OTHER_LIBRARY
            raise AuditError(f"{binary.path} needs a newer C library than {glibc}, by {_some(newer)}", hint=hint)


def _version(name: str) -> tuple[int, ...]:
    return version_numbers(name.partition("@")[2])


def check_gpu_code(case: AuditContext, nodes: Iterable[Node], target: BuildTarget) -> None:
    """Refuse libraries with GPU code, but without SASS for one of the target's GPUs.

    Raises:
        AuditError: there is one.
    """
    for node in nodes:
        targets = [code.target for code in node.binary.gpu]
        for sm in map(sm_number, target.gpus):
            if targets and not case.other_gpus(node) and not any(runs_natively(row, sm) for row in targets):
                raise AuditError(
                    f"{node.file} has no SASS for SM {dotted_sm(sm)}: it has {_named(targets)}",
                    hint="the package chooses its architectures itself, without TORCH_CUDA_ARCH_LIST and "
                    "CMAKE_CUDA_ARCHITECTURES: set the variable that it documents in `environment`, or patch its build",
                )


def _named(targets: Iterable[GpuTarget]) -> str:
    ordered = sorted({(target.kind, target.sm, target.variant) for target in targets}, reverse=True)
    words = {"sass": "SASS", "ptx": "PTX"}
    return ", ".join(f"{words[kind]} {dotted_sm(sm)}{variant}" for kind, sm, variant in ordered)


def check_runtime(wheel: Path, binaries: Iterable[Binary], target: BuildTarget) -> None:
    """Refuse libraries that contain CUDA's runtime, which before CUDA 13 is another one on Tegra than on servers.

    Raises:
        AuditError: there is one.
    """
    if target.cuda is None or int(target.cuda.partition(".")[0]) >= _FIRST_COMMON:
        return
    for binary in binaries:
        if _lacks_runtime(binary) and _contains(wheel, binary.path, _DRIVER):
            raise AuditError(
                f"{binary.path} contains libcudart of CUDA {target.cuda}, which differs between Tegra and servers",
                hint="link it as a shared library: `-cudart shared` for nvcc, CUDA_RUNTIME_LIBRARY Shared for CMake",
            )


def _lacks_runtime(binary: Binary) -> bool:
    imports = any(name.partition("@")[0] == _REGISTERS for name in binary.names)
    return bool(binary.gpu) and not imports and not any(name.startswith(_RUNTIME) for name in binary.needed)


def _contains(wheel: Path, path: str, text: bytes) -> bool:
    data = File(wheel)
    for member in wheel_reader.listing(wheel).members:
        if member.path == path:
            return any(text in block for block in _overlapping(wheel_reader.source(data, member), len(text)))
    return False


def _overlapping(source: ByteSource, overlap: int) -> Iterator[bytes]:
    for start in range(0, source.size, _BLOCK):
        yield source.read(start, min(_BLOCK + overlap, source.size - start))


def machine_paths(wheel: Path, paths: Iterable[str]) -> Iterator[str]:
    """Yield the files of a wheel that contain one of some paths of this machine: other machines give other bytes."""
    data, needles = File(wheel), [path.encode() for path in paths]
    for member in wheel_reader.listing(wheel).members:
        blocks = _overlapping(wheel_reader.source(data, member), max(map(len, needles)))
        if any(needle in block for block in blocks for needle in needles):
            yield member.name


def _some(names: list[str]) -> str:
    ordered = sorted(set(names))
    more = len(ordered) - _MOST_NAMED
    return ", ".join(ordered[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

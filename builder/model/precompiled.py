"""The records of modules that the build compiles from PTX, in place of the board's driver."""

from __future__ import annotations

from dataclasses import dataclass

from builder.model.audits import GpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class PtxModule:
    """A module of a library to compile for a GPU.

    `library` is its path in site-packages, `container` the number of its container there, `ptx` its target, `sm` the
    GPU (110 for 11.0), and `unpacked` the bytes of its text.
    """

    library: str
    container: int
    ptx: GpuTarget
    isa: tuple[int, int]
    sm: int
    unpacked: int

    @property
    def target(self) -> GpuTarget:
        """The target of the compiled code."""
        return GpuTarget("sass", self.sm, self.ptx.variant)


@dataclass(frozen=True, kw_only=True, slots=True)
class CubinKey:
    """The inputs of a compiled module: the sha256 of its PTX, its target (`sm_110`), and the compiler with options."""

    ptx: str
    arch: str
    ptxas: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledWheel:
    """What the build compiles of a wheel, and the version of `ptxas` that does it."""

    ptxas: str
    modules: tuple[PtxModule, ...]

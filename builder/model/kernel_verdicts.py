"""Verdicts on the kernels of a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Evidence = Literal["proven", "assumed", "contradicted"]
EVIDENCE: tuple[Evidence, ...] = get_args(Evidence)
# `borrowed`: code for a lower minor of the same major; `compiled`: the driver compiles PTX on the board; `first-use`: a
# compiler of the wheels makes the kernels at first use, for any GPU.
Coverage = Literal["native", "borrowed", "compiled", "first-use", "absent", "unknown"]
KernelDemand = Literal["any", "no-jit", "native"]
KERNEL_DEMANDS: tuple[KernelDemand, ...] = get_args(KernelDemand)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelVerdict:
    """The kernels of a family on a GPU; `reason` is what asks for the family.

    `kernels` are those that the GPU can have, `native`, `borrowed` and `compiled` their numbers by origin; of the
    native ones, the build makes `precompiled` of PTX.
    `borrowed_from` are the targets whose code runs there (`sm_80`), with the `evidence` for that. `modules` are those
    with kernels that the driver compiles, in `minutes` by estimate on one core. `files` are the libraries. `examples`
    are some kernels of the worst origin, mangled. `note` says why a verdict is unknown or what it rests on. `compiler`
    is what compiles the kernels at first use.
    """

    family: str
    title: str
    reason: str
    verdict: Coverage
    kernels: int = 0
    native: int = 0
    borrowed: int = 0
    compiled: int = 0
    precompiled: int = 0
    borrowed_from: tuple[str, ...] = ()
    evidence: Evidence | None = None
    modules: int = 0
    minutes: float = 0.0
    files: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    note: str | None = None
    compiler: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyKernel:
    """A kernel of a family on a GPU: its name as in the file, and as C++; `origin` is the worst of its copies."""

    file: str
    mangled: str
    name: str
    origin: Coverage

"""Whether a GPU has the kernels that a cell's server and model use: verdicts by family, and findings about them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING

from builder.audit.code_targets import compiles_for, is_same_major, runs_natively, target_name
from builder.audit.gpu_rules import compiler_of
from builder.audit.loading_rules import demangled
from builder.audit.rule_tables import tables
from builder.model.audits import Finding
from builder.model.kernel_verdicts import FamilyKernel, KernelVerdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.audit.kernel_families import KernelNeeds, NeededFamily
    from builder.model.audits import Severity
    from builder.model.kernel_verdicts import Coverage, KernelDemand
    from builder.model.kernels import KernelModule, LibraryKernels

RULE = "kernel-code"
_EXAMPLES = 3
_LONGEST_NAME = 120
_MB = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFacts:
    """A GPU, the platform's L4T release, the CUDA of its driver, and whether a run proved that borrowed code runs."""

    sm: int
    l4t: str | None
    driver: tuple[int, int] | None
    proof: str | None = None


@dataclass(slots=True)
class _Tally:
    """Kernels by origin, each once a container; targets and bytes of the modules that they come from."""

    native: set[tuple[str, int, int]] = field(default_factory=set)
    borrowed: set[tuple[str, int, int]] = field(default_factory=set)
    compiled: set[tuple[str, int, int]] = field(default_factory=set)
    refused: set[tuple[str, int, int]] = field(default_factory=set)
    origins: set[str] = field(default_factory=set)
    precompiled: set[tuple[str, int, int]] = field(default_factory=set)
    compiled_bytes: int = 0
    modules: int = 0


def kernel_verdicts(
    needs: KernelNeeds, libraries: Sequence[LibraryKernels], gpu: GpuFacts
) -> tuple[KernelVerdict, ...]:
    """Return the verdict of each family that a server uses on a GPU."""
    known = tuple(_verdict(need, libraries, gpu) for need in needs.families)
    unknown = tuple(
        KernelVerdict(
            family=feature, title=feature, reason=reason, verdict="unknown", note="jbuild does not know its kernels"
        )
        for feature, reason in needs.unknown
    )
    return known + unknown


def _verdict(need: NeededFamily, libraries: Sequence[LibraryKernels], gpu: GpuFacts) -> KernelVerdict:
    row = need.family
    if row.compiler:
        return KernelVerdict(
            family=row.name, title=row.title, reason=need.reason, verdict="first-use", compiler=row.compiler
        )
    chosen = _of_family(need, libraries)
    names = {library.path: library.names for library in chosen}
    tally, is_known = _tally(need, chosen, gpu)
    policy = tables().policy(gpu.l4t)
    verdict, worst = _worst(tally) if is_known else ("unknown", set())
    return KernelVerdict(
        family=row.name,
        title=row.title,
        reason=need.reason,
        verdict=verdict,
        kernels=len(tally.native) + len(tally.borrowed) + len(tally.compiled),
        native=len(tally.native),
        borrowed=len(tally.borrowed),
        compiled=len(tally.compiled),
        precompiled=len(tally.precompiled),
        borrowed_from=tuple(sorted(tally.origins)),
        evidence=("proven" if gpu.proof else policy.evidence) if tally.origins else None,
        modules=tally.modules,
        minutes=round(tally.compiled_bytes / _MB * tables().compile_s_per_mb / 60, 1),
        files=tuple(library.path for library in chosen),
        examples=tuple(names[path][index] for path, _, index in sorted(worst)[:_EXAMPLES]),
        note=_note(tally, gpu) if is_known else _nothing(chosen),
    )


def _of_family(need: NeededFamily, libraries: Sequence[LibraryKernels]) -> list[LibraryKernels]:
    return [library for library in libraries if any(fnmatchcase(library.path, glob) for glob in need.family.files)]


def _tally(need: NeededFamily, libraries: Sequence[LibraryKernels], gpu: GpuFacts) -> tuple[_Tally, bool]:
    """Count a family's kernels by origin; return also whether any library has a kernel of its names."""
    tally = _Tally()
    wanted = {library.path: _matching(library.names, need.kernels) for library in libraries}
    for library in libraries:
        _count(library, wanted[library.path], gpu, tally)
    return tally, any(wanted.values())


def kernels_of_family(
    need: NeededFamily, libraries: Sequence[LibraryKernels], gpu: GpuFacts
) -> tuple[FamilyKernel, ...]:
    """Return the kernels of a family that a server uses on a GPU, with their origin."""
    chosen = _of_family(need, libraries)
    names = {library.path: library.names for library in chosen}
    tally, _ = _tally(need, chosen, gpu)
    # A kernel with copies of several origins counts by the last of these.
    by_origin: tuple[tuple[Coverage, set[tuple[str, int, int]]], ...] = (
        ("native", tally.native),
        ("borrowed", tally.borrowed),
        ("compiled", tally.compiled),
        ("absent", tally.refused),
    )
    origins = {(path, index): origin for origin, keys in by_origin for path, _, index in keys}
    mangled = sorted((path, names[path][index], origin) for (path, index), origin in origins.items())
    return tuple(
        FamilyKernel(file=path, mangled=name, name=demangled(name), origin=origin) for path, name, origin in mangled
    )


def _worst(tally: _Tally) -> tuple[Coverage, set[tuple[str, int, int]]]:
    if tally.compiled:
        return "compiled", tally.compiled
    if tally.borrowed:
        return "borrowed", tally.borrowed
    return ("native", set()) if tally.native else ("absent", tally.refused)


def _nothing(libraries: Sequence[LibraryKernels]) -> str:
    """Return the reason why nothing is known about a family's kernels."""
    if not libraries:
        return "no wheel has a library of this family"
    flaws = (library.flaw for library in libraries if library.flaw)
    return next(flaws, "no library of this release has kernels of these names")


def _note(tally: _Tally, gpu: GpuFacts) -> str | None:
    if gpu.proof and tally.borrowed:
        return gpu.proof
    if tally.refused and not (tally.native or tally.borrowed or tally.compiled):
        return f"has code for {', '.join(sorted(tally.origins))} only, which this platform is known not to run"
    return None


@lru_cache(maxsize=64)
def _matching(names: tuple[str, ...], pattern: str) -> frozenset[int]:
    search = re.compile(pattern).search
    return frozenset(index for index, name in enumerate(names) if search(name))


def _count(library: LibraryKernels, wanted: frozenset[int], gpu: GpuFacts, tally: _Tally) -> None:
    """Count kernels container by container: the driver takes one entry, its own code if there is any."""
    by_container: dict[int, list[KernelModule]] = {}
    for module in library.modules:
        by_container.setdefault(module.container, []).append(module)
    same_major = tables().policy(gpu.l4t).same_major or gpu.proof is not None
    for number, modules in by_container.items():
        kernels = [(module, module.kernels & wanted) for module in modules]
        native = _union(found for module, found in kernels if runs_natively(module.target, gpu.sm))
        near = [(module, found) for module, found in kernels if found and is_same_major(module.target, gpu.sm)]
        borrowed = _union(found for _, found in near) - native
        ptx = [(module, found - native) for module, found in kernels if _compiles(module, gpu)]
        if not same_major:
            compiled = _union(found for _, found in ptx)
            tally.refused |= {(library.path, number, index) for index in borrowed - compiled}
            borrowed = frozenset()
        if borrowed or (near and not same_major):
            tally.origins |= {target_name(module.target) for module, found in near if found - native}
        made = _union(names for module, names in kernels if module.precompiled and runs_natively(module.target, gpu.sm))
        tally.precompiled |= {(library.path, number, index) for index in made}
        tally.native |= {(library.path, number, index) for index in native}
        tally.borrowed |= {(library.path, number, index) for index in borrowed}
        missing = [(module, found - borrowed) for module, found in ptx if found - borrowed]
        tally.compiled |= {(library.path, number, index) for _, found in missing for index in found}
        if missing:
            # The driver compiles the newest target that it can use.
            largest = max(missing, key=lambda pair: pair[0].target.sm)[0]
            tally.modules += 1
            tally.compiled_bytes += largest.unpacked


def _union(sets: Iterator[frozenset[int]]) -> frozenset[int]:
    return frozenset[int]().union(*sets)


def _compiles(module: KernelModule, gpu: GpuFacts) -> bool:
    return compiles_for(module.target, gpu.sm) and (gpu.driver is None or compiler_of(module.isa) <= gpu.driver)


def kernel_findings(
    verdicts: Mapping[str, Sequence[KernelVerdict]], demand: KernelDemand, wheels: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield a finding for each family whose kernels the GPU lacks, or has otherwise than the recipe demands.

    `wheels` name the wheel of each library, as findings do.
    """
    for sm, rows in verdicts.items():
        for row in rows:
            severity = _severity(row, demand)
            if severity is None:
                continue
            file = row.files[0] if row.files else row.family
            yield Finding(
                rule=RULE,
                severity=severity,
                wheel=wheels.get(file, "server"),
                file=file,
                detail=f"for SM {sm}: {detail(row)}",
                fix=_fix(row, severity),
                also=row.files[1:],
            )


def _severity(row: KernelVerdict, demand: KernelDemand) -> Severity | None:
    if row.verdict == "absent":
        return "error" if row.files else "info"
    if row.verdict == "compiled":
        return "error" if demand != "any" else "warning"
    if row.verdict == "borrowed":
        return "error" if demand == "native" else "info"
    return "info" if row.verdict == "unknown" else None


def refusal(row: KernelVerdict) -> str | None:
    """Return why a server that needs a family does not work on a GPU, None if it does."""
    return f"{detail(row)} ({RULE})" if _severity(row, "any") == "error" else None


def brief(row: KernelVerdict) -> str:
    """Return a verdict on a family in a few words."""
    if row.verdict == "borrowed":
        return f"borrowed {', '.join(row.borrowed_from)} code ({row.evidence})"
    if row.verdict == "compiled":
        noun = "module" if row.modules == 1 else "modules"
        return f"compiled on the board: {row.modules} {noun}, up to {max(1, ceil(row.minutes))} min"
    if row.compiler:
        return f"compiled by {row.compiler} at first use"
    if row.verdict == "native" and row.precompiled:
        return "native (precompiled)"
    return f"unknown: {row.note}" if row.verdict == "unknown" else row.verdict


def detail(row: KernelVerdict) -> str:
    """Return a verdict in words."""
    if row.verdict == "unknown":
        return f"{row.family}, asked for by {row.reason}: {row.note}"
    if row.compiler:
        return (
            f"{row.title}, asked for by {row.reason}: {row.compiler} compiles them at first use, whatever the wheel has"
        )
    if row.verdict == "absent":
        return f"{row.title}, asked for by {row.reason}: it has no such kernel for this GPU" + (
            f"; {row.note}" if row.note else ""
        )
    parts = [f"{row.native} of {row.kernels} kernels are native" if row.native else f"{row.kernels} kernels"]
    if row.precompiled:
        parts.append(f"the build compiles {row.precompiled} of these")
    if row.borrowed:
        known = row.note if row.evidence == "proven" and row.note else f"{row.evidence} to run on this platform"
        number = "all" if row.borrowed == row.kernels else str(row.borrowed)
        parts.append(f"{number} are borrowed {', '.join(row.borrowed_from)} code, {known}")
    if row.compiled:
        noun = "module" if row.modules == 1 else "modules"
        parts.append(
            f"the board's driver compiles {row.compiled} of them, in {row.modules} {noun}, when they are first used: "
            f"by estimate up to {max(1, ceil(row.minutes))} min on one core"
        )
    if row.examples:
        parts.append(f"such as {_shortened(demangled(row.examples[0]))}")
    return f"{row.title}, asked for by {row.reason}: " + "; ".join(parts)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def _fix(row: KernelVerdict, severity: Severity) -> str:
    if row.verdict == "compiled":
        return 'set `precompile = "needed"` under [image], so that the build compiles them'
    if row.verdict == "absent":
        return "take a build with code for this GPU, or a model that does not need these kernels"
    if severity == "error":
        return 'take a build with code for this GPU, or set `kernels = "no-jit"` under [audit]'
    return "nothing to do; `[audit] kernels` can demand more"

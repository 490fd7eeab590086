"""CUDA libraries without code for the platform's GPUs, or of a CUDA that differs from the driver's or the others'."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.audit.audit_context import finding, named
from builder.audit.code_targets import compiles_for, is_same_major, runs_natively
from builder.audit.rule_tables import major_minor, tables
from builder.jetson.boards import dotted_sm
from builder.jetson.distributions import platforms
from builder.model.audits import Finding, GpuVerdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.audit.audit_context import AuditContext
    from builder.audit.environment import Node
    from builder.model.audits import GpuCode, GpuTarget

_RUNTIME = re.compile(r"libcudart(?:-[0-9a-f]+)?\.so\.([0-9]+)")
_RUNTIME_WHEEL = re.compile(r"nvidia-cuda-runtime(-cu[0-9]+)?")
_CUDA = re.compile(r"lib(cudart|cublas|cublasLt|cudnn|cufft|curand|cusolver|cusparse|nccl|nvrtc|nvJitLink)\.so\.[0-9]+")
_BY_CONTENT = re.compile(r"-[0-9a-f]{8}\b")
_DONE = {"native", "same-major", "ptx", "unknown"}
_DETAILS = {
    "same-major-refused": "has SASS for {near} only, which this platform is known not to run",
    "ptx-too-new": "has only PTX of CUDA {isa}, which the driver ({driver}) cannot compile",
    "none": "has no code that runs there (SASS {sass}; PTX {ptx})",
}


def coverage(case: AuditContext) -> dict[str, dict[str, GpuVerdict]]:
    """Return the verdict for each SM and each library with GPU code, with the code that is in the image."""
    nodes = {f"{named(node.wheel)}/{node.file}": node for node in case.environment.nodes if node.binary.gpu}
    return {dotted_sm(sm): {label: _in_image(case, node, sm) for label, node in nodes.items()} for sm in case.sms}


def _in_image(case: AuditContext, node: Node, sm: int) -> GpuVerdict:
    """Return a verdict with the code of the image: slimming removes only code that runs on none of its GPUs."""
    sass, ptx = targets_of(case.gpu_code(node))
    return replace(_verdict(case, node, sm), sass=sass, ptx=ptx)


def targets_of(codes: Iterable[GpuCode]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the GPUs that SASS and PTX are for."""
    codes = tuple(codes)
    sass, ptx = (sorted({g.target.sm for g in codes if g.target.kind == kind}) for kind in ("sass", "ptx"))
    return tuple(sass), tuple(ptx)


def gpu_code(case: AuditContext) -> Iterator[Finding]:
    """Yield libraries without code for a GPU of the platform, one finding a wheel and reason."""
    for sm in case.sms:
        yield from _unsure(case, sm)
        grouped: dict[tuple[str, str, bool], list[Node]] = defaultdict(list)
        for node in _meant(case):
            if node.binary.gpu and (verdict := _verdict(case, node, sm)).verdict not in _DONE:
                grouped[named(node.wheel), verdict.verdict, verdict.meant].append(node)
        for (_, kind, meant), nodes in grouped.items():
            yield _gpu_finding(case, nodes, sm, kind, meant=meant)


def _unsure(case: AuditContext, sm: int) -> Iterator[Finding]:
    """Yield files that run on some L4T releases only, if the release is unknown."""
    if case.l4t or dotted_sm(sm) not in {supported for row in platforms() for supported in row.sms}:
        return
    with_code = (node for node in case.environment.nodes if node.binary.gpu)
    nodes = [node for node in with_code if _verdict(case, node, sm).verdict == "same-major"]
    if nodes:
        detail = f"for SM {dotted_sm(sm)}: has SASS of the same major only, which some L4T releases run, others not"
        yield finding("gpu-code", "warning", nodes, detail, "say which one with --l4t RELEASE")


def _gpu_finding(case: AuditContext, nodes: list[Node], sm: int, kind: str, *, meant: bool) -> Finding:
    row = case.other_gpus(nodes[0])
    detail = f"for SM {dotted_sm(sm)}: {_detail(case, nodes[0], sm, kind)}"
    if not meant and row:
        return finding("gpu-code", "info", nodes, f"{detail}; {row.why}", "nothing to do: it is not used there")
    fix = f"take a build with SM {dotted_sm(sm)}{', such as those of the Jetson package index' * bool(case.l4t)}"
    return finding("gpu-code", "error", nodes, detail, fix)


def gpu_problem(case: AuditContext, node: Node) -> str | None:
    """Return the reason why a library's code does not run on one of the platform's GPUs; None if it does."""
    for sm in case.sms if node.binary.gpu else ():
        kind = _verdict(case, node, sm).verdict
        if kind not in _DONE:
            return f"for SM {dotted_sm(sm)}: {_detail(case, node, sm, kind)}"
    return None


def _detail(case: AuditContext, node: Node, sm: int, kind: str) -> str:
    codes = node.binary.gpu
    sass, ptx = ([code.target for code in codes if code.target.kind == kind] for kind in ("sass", "ptx"))
    isa = max((code.isa for code in codes if compiles_for(code.target, sm)), default=(0, 0))
    return _DETAILS[kind].format(
        near=_capabilities(target for target in sass if is_same_major(target, sm)),
        isa="{}.{}".format(*compiler_of(isa)),
        driver=f"CUDA {case.driver[0]}.{case.driver[1]}" if case.driver else "",
        sass=_capabilities(sass),
        ptx=_capabilities(ptx),
    )


def _capabilities(targets: Iterable[GpuTarget]) -> str:
    """Return compute capabilities, such as 8.0 and 9.0a, each once."""
    ordered = sorted({(target.sm, target.variant) for target in targets})
    return ", ".join(f"{dotted_sm(sm)}{variant}" for sm, variant in ordered) or "none"


def _verdict(case: AuditContext, node: Node, sm: int) -> GpuVerdict:
    codes = node.binary.gpu
    sass, ptx = targets_of(codes)
    usable = [code.isa for code in codes if compiles_for(code.target, sm)]
    near = any(is_same_major(code.target, sm) for code in codes)
    if case.hidden_code(node):
        verdict = "unknown"
    elif any(runs_natively(code.target, sm) for code in codes):
        verdict = "native"
    elif near and tables().same_major(case.l4t):
        verdict = "same-major"
    elif any(case.driver is None or compiler_of(isa) <= case.driver for isa in usable):
        verdict = "ptx"
    else:
        verdict = "same-major-refused" if near else "ptx-too-new" if usable else "none"
    return GpuVerdict(sass=sass, ptx=ptx, verdict=verdict, meant=case.other_gpus(node) is None)


def compiler_of(isa: tuple[int, int]) -> tuple[int, int]:
    """Return the first CUDA release that compiles a version of PTX; an unknown one counts by its major."""
    releases = [cuda for version, cuda in tables().ptx if version >= isa]
    return min(releases) if releases else (isa[0] + 4, isa[1])


def _meant(case: AuditContext) -> Iterator[Node]:
    """Yield the files that a process loads: not those that exist once for every CUDA."""
    return (node for node in case.environment.nodes if not case.exempt(node))


def toolkit(case: AuditContext) -> tuple[tuple[int, int], Node | None]:
    """Return the newest CUDA runtime that the wheels contain or need, and a file that shows it."""
    runtimes: list[tuple[tuple[int, int], Node]] = []
    for node in _meant(case):
        names = filter(None, map(_RUNTIME.fullmatch, (node.name, *node.binary.needed)))
        runtimes.extend(((int(match[1]), 0), node) for match in names)
        if node.wheel and _RUNTIME_WHEEL.fullmatch(node.wheel.name) and _RUNTIME.fullmatch(node.name):
            runtimes.append((major_minor(node.wheel.version), node))
    return max(runtimes, key=lambda pair: pair[0], default=((0, 0), None))


def toolkit_newer(case: AuditContext) -> Iterator[Finding]:
    """Yield the file that shows a newer CUDA than that of the platform's driver."""
    newest, node = toolkit(case)
    if case.driver is None or node is None or newest <= case.driver:
        return
    has, driver = ("{}.{}".format(*version) for version in (newest, case.driver))
    if newest[0] > case.driver[0]:
        detail = f"needs CUDA {has}; the driver of {case.host} has {driver} and refuses a newer major"
        fix = f"take wheels built for CUDA {case.driver[0]}.x, or a newer {'L4T' if case.l4t else 'driver'}"
        yield finding("toolkit-newer", "error", [node], detail, fix)
    else:
        detail = f"is of CUDA {has}; the driver of {case.host} has {driver}: SASS runs, PTX is not compiled"
        fix = f"take wheels built for CUDA {driver}, or NVIDIA's compatibility package on the device"
        yield finding("toolkit-newer", "warning", [node], detail, fix)


def two_cudas(case: AuditContext) -> Iterator[Finding]:
    """Yield files of the rarer CUDA major, if the environment has or needs runtimes of two."""
    by_major: dict[int, list[Node]] = defaultdict(list)
    for node in _meant(case):
        for library in (node.name, node.binary.soname or "", *node.binary.needed):
            if match := _RUNTIME.fullmatch(library):
                by_major[int(match[1])].append(node)
    if len(by_major) < 2:  # noqa: PLR2004
        return
    _, least = min((len({n.wheel for n in nodes}), major) for major, nodes in by_major.items())
    majors = ", ".join(str(major) for major in sorted(by_major) if major != least)
    detail = f"is of CUDA {least}, others of CUDA {majors}: a process may load both"
    fix = "take wheels of one CUDA major; where one of them is never loaded with the other, waive this with the reason"
    yield finding("two-cudas", "warning", by_major[least], detail, fix)


def two_sonames(case: AuditContext) -> Iterator[Finding]:
    """Yield libraries of one name that two wheels, or a wheel and the base image, have: the first one loaded wins."""
    named_so: dict[str, dict[str, Node]] = defaultdict(dict)
    for node in case.environment.nodes:
        if _shares_name(node) and case.loader.fits(node):
            named_so[node.binary.soname or ""].setdefault(named(node.wheel), node)
    for soname, nodes in named_so.items():
        system = case.environment.system.get(soname)
        is_cuda = _CUDA.fullmatch(soname) is not None
        same = [*nodes.values(), *([system] if system and is_cuda else [])]
        if len({node.binary.defines for node in same}) > 1 or (len(same) > 1 and is_cuda):
            owners = ", ".join(named(node.wheel) for node in same[1:])
            yield finding(
                "two-sonames",
                "warning" if is_cuda and all(node.name == soname for node in same) else "info",
                same,
                f"is called {soname}, like a file of {owners}: whichever is loaded first serves both",
                "keep one of them, where they are not of the same release",
            )


def _shares_name(node: Node) -> bool:
    """Return whether a library's soname can clash: auditwheel's contain a hash of the content."""
    return node.is_library and not node.is_module and not _BY_CONTENT.search(node.binary.soname or "-00000000")

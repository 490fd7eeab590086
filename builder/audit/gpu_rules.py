"""Whether the CUDA libraries have code for the platform's GPUs, and whether one CUDA fits them all and the driver."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from builder.audit.audit_context import finding, named
from builder.audit.rule_tables import numbers, tables
from builder.jetson.distributions import platforms
from builder.model.audits import Finding, GpuVerdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.audit_context import AuditContext
    from builder.audit.environment import Node
    from builder.model.audits import Severity

_RUNTIME = re.compile(r"libcudart(?:-[0-9a-f]+)?\.so\.([0-9]+)")
_RUNTIME_WHEEL = re.compile(r"nvidia-cuda-runtime(-cu[0-9]+)?")
_CUDA = re.compile(r"lib(cudart|cublas|cublasLt|cudnn|cufft|curand|cusolver|cusparse|nccl|nvrtc|nvJitLink)\.so\.[0-9]+")
_BY_CONTENT = re.compile(r"-[0-9a-f]{8}\b")
_DONE = {"native", "same-major", "ptx", "unknown"}
_SAID = {
    "same-major-refused": "has SASS for {near} only, which this platform is known not to run",
    "ptx-too-new": "has only PTX of CUDA {isa}, which the driver ({driver}) cannot compile",
    "none": "has no code that runs there (SASS {sass}; PTX {ptx})",
}


def coverage(case: AuditContext) -> dict[str, dict[str, GpuVerdict]]:
    """Return for each SM and each library with GPU code how it runs there."""
    nodes = [node for node in case.environment.nodes if node.binary.gpu]
    return {_dotted(sm): {_label(node): _verdict(case, node, sm) for node in nodes} for sm in case.sms}


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
    """Yield what runs on some L4T releases only, where nobody says which one it is for."""
    if case.l4t or _dotted(sm) not in {each for row in platforms() for each in row.sms}:
        return
    nodes = [
        node for node in case.environment.nodes if node.binary.gpu and _verdict(case, node, sm).verdict == "same-major"
    ]
    if nodes:
        detail = f"for SM {_dotted(sm)}: has SASS of the same major only, which some L4T releases run and others do not"
        also = tuple(node.shown for node in nodes[1:])
        yield finding("gpu-code", "warning", nodes[0], detail, "say which one with --l4t RELEASE", also=also)


def _gpu_finding(case: AuditContext, nodes: list[Node], sm: int, kind: str, *, meant: bool) -> Finding:
    first = nodes[0]
    row = case.other_gpus(first)
    detail = f"for SM {_dotted(sm)}: {_said(case, first, sm, kind)}"
    fix = f"take a build with SM {_dotted(sm)}, such as those of the Jetson package index"
    severity: Severity = "error"
    if not meant and row:
        detail, fix, severity = f"{detail}; {row.why}", "nothing to do: it is not used there", "info"
    return finding("gpu-code", severity, first, detail, fix, also=tuple(node.shown for node in nodes[1:]))


def _said(case: AuditContext, node: Node, sm: int, kind: str) -> str:
    verdict = _verdict(case, node, sm)
    near = ", ".join(_dotted(s) for s in verdict.sass if s // 10 == sm // 10)
    isa = max((g.isa for g in node.binary.gpu if g.target.kind == "ptx"), default=(0, 0))
    driver = f"CUDA {case.driver[0]}.{case.driver[1]}" if case.driver else ""
    values = {"near": near, "isa": "{}.{}".format(*_compiler(isa)), "driver": driver}
    lists = {
        name: ", ".join(map(_dotted, found)) or "none" for name, found in (("sass", verdict.sass), ("ptx", verdict.ptx))
    }
    return _SAID[kind].format(**values, **lists)


def _verdict(case: AuditContext, node: Node, sm: int) -> GpuVerdict:
    sass = sorted({g.target.sm for g in node.binary.gpu if g.target.kind == "sass"})
    ptx = sorted({g.target.sm for g in node.binary.gpu if g.target.kind == "ptx"})
    usable = [g.isa for g in node.binary.gpu if g.target.kind == "ptx" and g.target.sm <= sm]
    near = any(s // 10 == sm // 10 and s < sm for s in sass)
    if case.hidden_code(node):
        verdict = "unknown"
    elif sm in sass:
        verdict = "native"
    elif near and tables().policy(case.l4t).same_major:
        verdict = "same-major"
    elif any(case.driver is None or _compiler(isa) <= case.driver for isa in usable):
        verdict = "ptx"
    else:
        verdict = "same-major-refused" if near else "ptx-too-new" if usable else "none"
    return GpuVerdict(sass=tuple(sass), ptx=tuple(ptx), verdict=verdict, meant=case.other_gpus(node) is None)


def _compiler(isa: tuple[int, int]) -> tuple[int, int]:
    """Return the first CUDA release that compiles a version of PTX; an unknown one counts by its major."""
    known = [cuda for version, cuda in tables().ptx if version >= isa]
    return min(known) if known else (isa[0] + 4, isa[1])


def _meant(case: AuditContext) -> Iterator[Node]:
    """Yield the files that a process will load: not those of which there is one for every CUDA."""
    return (node for node in case.environment.nodes if not case.exempt(node))


def toolkit(case: AuditContext) -> tuple[tuple[int, int], Node | None]:
    """Return the newest CUDA runtime that the wheels bring or ask for, and a file that shows it."""
    found: list[tuple[tuple[int, int], Node]] = []
    for node in _meant(case):
        names = filter(None, map(_RUNTIME.fullmatch, (node.name, *node.binary.needed)))
        found.extend(((int(match[1]), 0), node) for match in names)
        if node.wheel and _RUNTIME_WHEEL.fullmatch(node.wheel.name) and _RUNTIME.fullmatch(node.name):
            found.append((numbers(node.wheel.version), node))
    return max(found, key=lambda pair: pair[0], default=((0, 0), None))


def toolkit_newer(case: AuditContext) -> Iterator[Finding]:
    """Yield whether the CUDA of the wheels is newer than that of the platform's driver."""
    found, node = toolkit(case)
    if case.driver is None or node is None or found <= case.driver:
        return
    has, driver = ("{}.{}".format(*version) for version in (found, case.driver))
    if found[0] > case.driver[0]:
        detail = f"needs CUDA {has}; the driver of L4T {case.l4t} has {driver} and refuses a newer major"
        fix = f"take wheels built for CUDA {case.driver[0]}.x, or a newer L4T"
        yield finding("toolkit-newer", "error", node, detail, fix)
    else:
        detail = f"is of CUDA {has}; the driver of L4T {case.l4t} has {driver}: SASS runs, PTX is not compiled"
        fix = f"take wheels built for CUDA {driver}, or NVIDIA's compatibility package on the device"
        yield finding("toolkit-newer", "warning", node, detail, fix)


def two_cudas(case: AuditContext) -> Iterator[Finding]:
    """Yield whether one environment has or asks for CUDA runtimes of two majors."""
    found: dict[int, list[Node]] = defaultdict(list)
    for node in _meant(case):
        for library in (node.name, node.binary.soname or "", *node.binary.needed):
            if match := _RUNTIME.fullmatch(library):
                found[int(match[1])].append(node)
    if len(found) < 2:  # noqa: PLR2004
        return
    _, least = min((len({n.wheel for n in nodes}), major) for major, nodes in found.items())
    first, others = found[least][0], [major for major in found if major != least]
    also = tuple(dict.fromkeys(node.shown for node in found[least] if node is not first))
    detail = f"is of CUDA {least}, others of CUDA {', '.join(map(str, sorted(others)))}: a process may load both"
    fix = "take wheels of one CUDA major; where one of them is never loaded with the other, waive this with the reason"
    yield finding("two-cudas", "warning", first, detail, fix, also=also)


def two_sonames(case: AuditContext) -> Iterator[Finding]:
    """Yield libraries of one name that two wheels, or a wheel and the base image, have: the first one loaded wins."""
    named_so: dict[str, dict[str, Node]] = defaultdict(dict)
    for node in case.environment.nodes:
        if _shares_name(node) and case.loader.fits(node):
            named_so[node.binary.soname or ""].setdefault(named(node.wheel), node)
    for soname, nodes in named_so.items():
        system = case.environment.system.get(soname)
        found = [*nodes.values(), *([system] if system and _CUDA.fullmatch(soname) else [])]
        if len({node.binary.defines for node in found}) > 1 or (len(found) > 1 and _CUDA.fullmatch(soname)):
            owners = ", ".join(named(node.wheel) for node in found[1:])
            yield finding(
                "two-sonames",
                "warning" if _CUDA.fullmatch(soname) and all(node.name == soname for node in found) else "info",
                found[0],
                f"is called {soname}, like a file of {owners}: whichever is loaded first serves both",
                "keep one of them, where they are not of the same release",
                also=tuple(node.shown for node in found[1:]),
            )


def _shares_name(node: Node) -> bool:
    """Return whether a library's own name says nothing of its content: auditwheel's names do."""
    return node.is_library and not node.is_module and not _BY_CONTENT.search(node.binary.soname or "-00000000")


def _label(node: Node) -> str:
    return f"{named(node.wheel)}/{node.shown}"


def _dotted(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"

"""Files of which a process loads one, such as bitsandbytes' libraries for releases of CUDA: one must be sound."""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.audit_context import finding
from builder.audit.gpu_rules import gpu_problem
from builder.audit.rule_tables import tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.audit.audit_context import AuditContext
    from builder.audit.environment import Node
    from builder.audit.rule_tables import Exempt
    from builder.model.audits import Finding


def one_of(case: AuditContext) -> Iterator[Finding]:
    """Yield the candidates of a wheel none of which loads and runs on the platform's GPUs."""
    for row in (row for row in tables().optional if row.one_of):
        by_wheel: dict[str, list[Node]] = defaultdict(list)
        for node in case.environment.nodes:
            if node.is_library and node.wheel and row.fits(node.wheel.name, node.file):
                by_wheel[node.wheel.sha256].append(node)
        for nodes in by_wheel.values():
            yield from _unsound(case, row, _candidates(case, row, sorted(nodes, key=lambda node: node.file)))


def _candidates(case: AuditContext, row: Exempt, nodes: Sequence[Node]) -> list[Node]:
    """Return the files that a process chooses from on this platform."""
    if not case.sms or row.on_gpu is None:
        return list(nodes)
    on_gpu = [node for node in nodes if fnmatchcase(node.file, row.on_gpu)]
    pattern = (row.chosen or "").replace("{cuda}", (case.torch_cuda or "").replace(".", ""))
    chosen = [node for node in on_gpu if case.torch_cuda and fnmatchcase(node.file, pattern)]
    return chosen or on_gpu


def _unsound(case: AuditContext, row: Exempt, nodes: Sequence[Node]) -> Iterator[Finding]:
    outcomes = {outcome.node.file: outcome for outcome in case.verdicts}
    on_gpu = [gpu_problem(case, node) for node in nodes]
    loading = [outcomes[node.file].text for node in nodes if node.file in outcomes and outcomes[node.file].failures]
    if nodes and all(on_gpu):
        detail = f"{on_gpu[0]}; {row.why}, and none of the {len(nodes)} runs on this GPU"
        fix = "take a build for this GPU, such as those of the Jetson package index, or build it from source"
        yield finding("gpu-code", "error", nodes, detail, fix)
    elif nodes and len(loading) == len(nodes) and any(wheel.name == "torch" for wheel in case.environment.wheels):
        # torch brings CUDA's libraries along; without it, a single wheel is audited.
        detail = f"{loading[0]}; {row.why}, and none of the {len(nodes)} loads"
        yield finding("missing-library", "error", nodes, detail, "add what they need to `requires` or to `apt`")

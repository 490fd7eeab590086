"""An audit: its result, and its text with one block for each cause and the next step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from builder import records
from builder.audit.model import Audit, Finding, FindingCounts, GpuVerdict
from builder.audit.tables import Rule
from builder.cli.failures import Failure
from builder.cli.results import printable

_MOST_FILES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedCell:
    """Findings about one cell; `files` and `injected` come with --files, `recipe` if one cell is shown."""

    recipe: str | None = field(default=None, metadata=records.OPTIONAL)
    cell: str
    base: str
    findings: tuple[Finding, ...]
    counts: FindingCounts
    gpu: dict[str, dict[str, GpuVerdict]]
    warnings: tuple[str, ...]
    assumed: str | None
    elapsed_s: float
    files: dict[str, str] | None = field(default=None, metadata=records.OPTIONAL)
    injected: dict[str, tuple[str, ...]] | None = field(default=None, metadata=records.OPTIONAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnauditedCell:
    """One of several cells, whose audit failed."""

    cell: str
    error: Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedCells:
    """Findings about several cells."""

    recipe: str
    cells: tuple[AuditedCell | UnauditedCell, ...]


# The last one comes with --explain.
AuditResult = AuditedCell | AuditedCells | Rule


def text(audit: Audit) -> str:
    """Return an audit as text."""
    lines = [f"{audit.cell}: {audit.counts} in {audit.elapsed_s:.1f} s"]
    if audit.assumed:
        lines.append(f"assumed: {audit.assumed}")
    for finding in audit.findings:
        lines += ["", *_block(finding)]
    lines += [f"warning: {warning}" for warning in audit.warnings]
    return "\n".join(map(printable, [*lines, *_gpu(audit)]))


def explained(rule: Rule) -> str:
    """Return the description of a rule, and how to waive its findings."""
    globs = 'wheel = "*"   # globs; default: all\nfile = "*"'
    waiver = f'[[audit.waive]]\nrule = "{rule.id}"\n{globs}\nreason = "why it is safe"'
    heading = f"{rule.id} ({rule.severity} at worst): {rule.title}"
    return f"{heading}\n\n{rule.says}\n\nTo waive a finding, put into the recipe:\n\n{waiver}"


def audited(audit: Audit, *, files: bool, recipe: str | None = None) -> AuditedCell:
    """Return an audit as a result; `files` adds what the loader would say about each file."""
    return AuditedCell(
        recipe=recipe,
        cell=audit.cell,
        base=audit.base,
        findings=audit.findings,
        counts=audit.counts,
        gpu=audit.gpu,
        warnings=audit.warnings,
        assumed=audit.assumed,
        elapsed_s=audit.elapsed_s,
        files=audit.files if files else None,
        injected=audit.injected if files else None,
    )


def _block(finding: Finding) -> Iterator[str]:
    word = "waived" if finding.waived is not None else finding.severity
    yield f"{word:<8} {finding.rule}: {finding.wheel}" + (" (assumed)" if finding.assumed else "")
    yield f"         {finding.file} {finding.detail}"
    if finding.also:
        more = len(finding.also) - _MOST_FILES
        files = ", ".join(finding.also[:_MOST_FILES])
        yield f"         also: {files}" + (f" and {more} more" if more > 0 else "")
    if finding.waived is not None:
        yield f"         waived: {finding.waived}"
    else:
        yield f"         next: {finding.fix}"


def _gpu(audit: Audit) -> Iterator[str]:
    for sm, libraries in audit.gpu.items():
        kinds = Counter(verdict.verdict for verdict in libraries.values())
        if kinds:
            yield ""
            yield f"GPU code for SM {sm}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))

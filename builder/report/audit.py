"""An audit as people read it: by severity, one block a cause, each with the next step."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from builder import records
from builder.audit.model import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.model import Audit, Finding
    from builder.audit.tables import Rule

_NOUNS = {"error": ("error", "errors"), "warning": ("warning", "warnings"), "info": ("note", "notes")}
_MOST_FILES = 3


def text(audit: Audit) -> str:
    """Return an audit as text."""
    lines = [f"{audit.cell}: {tally(audit)} in {audit.elapsed_s:.1f} s"]
    if audit.assumed:
        lines.append(f"assumed: {audit.assumed}")
    for finding in audit.findings:
        lines += ["", *_block(finding)]
    lines += [f"warning: {warning}" for warning in audit.warnings]
    return "\n".join(map(printable, [*lines, *_gpu(audit)]))


def explained(rule: Rule) -> str:
    """Return what a rule finds, and how a finding of it is waived."""
    globs = 'wheel = "*"   # globs: default everything\nfile = "*"'
    waiver = f'[[audit.waive]]\nrule = "{rule.id}"\n{globs}\nreason = "why you know better"'
    heading = f"{rule.id} ({rule.severity} at worst): {rule.title}"
    return f"{heading}\n\n{rule.says}\n\nTo waive a finding, put into the recipe:\n\n{waiver}"


def as_json(audit: Audit, *, files: bool) -> dict[str, Any]:
    """Return an audit as `--json` shows it; `files` adds what the loader would say of each file."""
    found = {
        "cell": audit.cell,
        "base": audit.base,
        "findings": [_finding_json(finding) for finding in audit.findings],
        "counts": counts(audit),
        "gpu": records.plain(audit.gpu),
        "warnings": list(audit.warnings),
        "assumed": audit.assumed,
        "elapsed_s": audit.elapsed_s,
    }
    return {**found, "files": audit.files, "injected": records.plain(audit.injected)} if files else found


def counts(audit: Audit) -> dict[str, int]:
    """Return how many findings of each severity nobody waived, and how many are waived."""
    found: dict[str, int] = {severity: audit.counted(severity) for severity in SEVERITIES}
    return {**found, "waived": sum(1 for finding in audit.findings if finding.waived is not None)}


def tally(audit: Audit) -> str:
    """Return the counts in words."""
    numbers = counts(audit)
    waived = numbers.pop("waived")
    parts = [f"{number} {_NOUNS[name][number != 1]}" for name, number in numbers.items()]
    return ", ".join(parts) + (f", {waived} waived" if waived else "")


def _finding_json(finding: Finding) -> dict[str, Any]:
    return dict(records.plain(finding)) | {"also": list(finding.also)}


def _block(finding: Finding) -> Iterator[str]:
    word = "waived" if finding.waived is not None else finding.severity
    yield f"{word:<8} {finding.rule}: {finding.wheel}" + (" (assumed)" if finding.assumed else "")
    yield f"         {finding.file} {finding.detail}"
    if finding.also:
        more = len(finding.also) - _MOST_FILES
        files = ", ".join(finding.also[:_MOST_FILES])
        yield f"         so too: {files}" + (f" and {more} more" if more > 0 else "")
    if finding.waived is not None:
        yield f"         waived: {finding.waived}"
    else:
        yield f"         next: {finding.fix}"


def printable(line: str) -> str:
    """Return a line without what a terminal would obey: names in wheels are anybody's."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _gpu(audit: Audit) -> Iterator[str]:
    for sm, libraries in audit.gpu.items():
        kinds = Counter(verdict.verdict for verdict in libraries.values())
        if kinds:
            yield ""
            yield f"GPU code for SM {sm}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))

"""An examination as people read it: a line a check, and under what is not well why it matters and what mends it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from builder.report.audit import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.doctor.mending import Mended
    from builder.doctor.model import Check

_WORDS = {"ok": "ok", "warning": "warning", "error": "error", "not applicable": "n/a"}
_INDENT = " " * 23


def text(checks: Sequence[Check], mended: Sequence[Mended]) -> str:
    """Return the lines of an examination."""
    lines: list[str] = []
    for before, check in zip((None, *checks), checks, strict=False):
        lines += _check(check, again=before is not None and before.name == check.name)
    lines += [f"mended: {each.command}" if each.failure is None else f"not mended: {each.command}: {each.failure}"
              for each in mended]  # fmt: skip
    return "\n".join(map(printable, [*lines, verdict(checks)]))


def verdict(checks: Sequence[Check]) -> str:
    """Return the last line: whether images can be made here, and what stands in the way."""
    wrong = list(dict.fromkeys(check.name for check in checks if check.state == "error"))
    doubtful = list(dict.fromkeys(check.name for check in checks if check.state == "warning"))
    fixable = any(check.fix for check in checks if check.state in {"warning", "error"})
    said = f"to be mended: {', '.join(wrong)}" if wrong else "this machine can make images"
    more = f"; worth a look: {', '.join(doubtful)}" if doubtful else ""
    return said + more + ("; `jbuild doctor --fix` runs the safe commands" if fixable else "")


def _check(check: Check, *, again: bool) -> Iterator[str]:
    """Yield a check's lines; why a subject matters is told once, however often it is seen to be wrong."""
    yield f"{_WORDS[check.state]:<8} {check.name:<13} {check.found}"
    if check.state in {"warning", "error"}:
        if not again:
            yield f"{_INDENT}why: {check.why}"
        yield f"{_INDENT}mend: {check.mend}"
        if check.fix:
            yield f"{_INDENT}--fix runs: {shlex.join(check.fix)}"

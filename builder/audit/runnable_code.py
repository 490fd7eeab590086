"""Which GPU code runs on a GPU: the same answer for the audit and for what is left in a slimmed wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit import code_targets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.audit.fatbin import Code
    from builder.model.audits import GpuCode, GpuTarget
    from builder.model.slimming import SlimRules


def runs_on(target: GpuTarget, sm: int, rules: SlimRules, *, unknown: bool) -> bool:
    """Return whether SASS runs on a GPU; `unknown` is the answer where the rules do not know."""
    same_major = unknown if rules.same_major is None else rules.same_major
    return code_targets.runs_natively(target, sm) or (same_major and code_targets.is_same_major(target, sm))


def compiles_for(code: Code | GpuCode, sm: int, rules: SlimRules) -> bool:
    """Return whether the driver can compile PTX for a GPU."""
    is_known = rules.newest_isa is None or code.isa <= rules.newest_isa
    return is_known and code_targets.compiles_for(code.target, sm)


def remaining(codes: Iterable[GpuCode], rules: SlimRules) -> tuple[GpuCode, ...]:
    """Return the code of a library that can be left after slimming.

    Of SASS, all that runs on one of the GPUs is left. Of PTX, a part may go: that for kernels which SASS of the same
    container has.
    """
    return tuple(
        code
        for code in codes
        if any(runs_on(code.target, sm, rules, unknown=True) or compiles_for(code, sm, rules) for sm in rules.sms)
    )

"""Which GPU code runs on a GPU: the same answer for the audit and for what is left in a slimmed wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit.rule_tables import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.audit.fatbin import Code
    from builder.model.audits import GpuCode, GpuTarget
    from builder.model.slimming import SlimRules


def runs_on(target: GpuTarget, sm: int, rules: SlimRules, *, unknown: bool) -> bool:
    """Return whether SASS runs on a GPU; `unknown` is the answer where the rules do not know."""
    if target.kind != "sass":
        return False
    if target.variant == "a":
        return target.sm == sm
    if target.variant == "f":
        return sm in _family(target.sm)
    same_major = unknown if rules.same_major is None else rules.same_major
    return target.sm == sm or (same_major and target.sm // 10 == sm // 10 and target.sm < sm)


def compiles_for(code: Code | GpuCode, sm: int, rules: SlimRules) -> bool:
    """Return whether the driver can compile PTX for a GPU."""
    target = code.target
    if target.kind != "ptx" or (rules.newest_isa is not None and code.isa > rules.newest_isa):
        return False
    if target.variant == "a":
        return target.sm == sm
    if target.variant == "f":
        return sm in _family(target.sm)
    return target.sm <= sm


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


def _family(sm: int) -> tuple[int, ...]:
    return tables().families.get(sm, (sm,))

"""Which GPUs run code for which targets: a pure function of the target, the GPU and the platform's policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit.rule_tables import tables

if TYPE_CHECKING:
    from builder.model.audits import GpuTarget


def runs_natively(target: GpuTarget, sm: int) -> bool:
    """Return whether SASS was made for a GPU, or for its family."""
    return target.kind == "sass" and (target.sm == sm or (target.variant == "f" and sm in _family(target.sm)))


def is_same_major(target: GpuTarget, sm: int) -> bool:
    """Return whether SASS is for a lower minor of the GPU's major, which some platforms run."""
    return target.kind == "sass" and not target.variant and target.sm // 10 == sm // 10 and target.sm < sm


def compiles_for(target: GpuTarget, sm: int) -> bool:
    """Return whether a driver that knows its version compiles PTX for a GPU."""
    if target.kind != "ptx":
        return False
    if target.variant:
        return target.sm == sm or (target.variant == "f" and sm in _family(target.sm))
    return target.sm <= sm


def target_name(target: GpuTarget) -> str:
    """Return a target as NVIDIA's tools write it, such as sm_90a."""
    prefix = "sm" if target.kind == "sass" else "compute"
    return f"{prefix}_{target.sm}{target.variant}"


def _family(sm: int) -> tuple[int, ...]:
    return tables().families.get(sm, (sm,))

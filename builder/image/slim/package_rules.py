"""Which packages are slimmed."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.slim_tables import unchanged_row

if TYPE_CHECKING:
    from builder.foundry.wheel_names import WheelName
    from builder.model.slimming import SlimRules


_LABEL = re.compile(r"(?<![a-z0-9])(?:sm\d+\.)*sm\d+$")


def refusal(wheel: WheelName, rules: SlimRules) -> str | None:
    """Return the reason why a wheel stays as it is; None if it is slimmed."""
    if _matches(wheel.package, rules.exclude):
        return "the rules exclude it"
    if label := slimmed_label(wheel.version):
        return f"its label {label} says that other code is gone already"
    row = None if _matches(wheel.package, rules.include) else unchanged_row(wheel.package)
    return row.why if row else None


def slimmed_label(version: str) -> str | None:
    """Return the part of a version's local label that slimming writes, such as sm87.sm110."""
    match = _LABEL.search(version.partition("+")[2])
    return match[0] if match else None


def _matches(package: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(package, pattern) for pattern in globs)

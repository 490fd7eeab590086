"""Which packages are slimmed."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.slim_tables import unchanged_row

if TYPE_CHECKING:
    from builder.model.slimming import SlimRules


def refusal(package: str, rules: SlimRules) -> str | None:
    """Return the reason why a package stays as it is; None if it is slimmed."""
    if _matches(package, rules.exclude):
        return "the rules exclude it"
    if _matches(package, rules.include):
        return None
    row = unchanged_row(package)
    return row.why if row else None


def _matches(package: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(package, pattern) for pattern in globs)

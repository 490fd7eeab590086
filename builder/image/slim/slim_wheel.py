"""Takes the code for other GPUs out of a wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.slimming import SlimReport, SlimRules

# Another version of the writer gives other bytes.
ALGORITHM = 1


def slim_wheel(wheel: Path, target: Path, rules: SlimRules, *, label: str | None = None) -> SlimReport:
    """Write a wheel without the code for other GPUs to `target`, and return what went and what stayed.

    The result is a pure function of the wheel's bytes, the rules, the label and `ALGORITHM`. Nothing is written if
    nothing can go; `skipped` of the report says why. `label` is appended to the version as its local label: then the
    file's name differs, and `target` is taken as the folder's file with the name of the report.

    Raises:
        UsageError: it is not a wheel.
        MalformedError: the wheel or its GPU code cannot be read.
        DiskError: the result cannot be written.
    """
    raise NotImplementedError

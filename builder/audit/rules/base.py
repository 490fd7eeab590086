"""What the base image itself says that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit.case import named
from builder.audit.model import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.audit.case import Case

_FILE = "/etc/os-release"


def other_distribution(case: Case) -> Iterator[Finding]:
    """Yield a base image of another distribution than the cell's: other packages, another Python and C library.

    One that stands in for the real one, by a mirror rule that says so, is a warning: the real one may well be right.
    """
    environment = case.environment
    said = environment.base.distribution if environment.base else ()
    wanted = environment.platform.distribution
    if not said or wanted in said:
        return
    yield Finding(
        rule="other-distribution",
        severity="warning" if case.stand_in else "error",
        wheel=named(None),
        file=_FILE,
        detail=f"says {said[0]}, and the cell is for {wanted}"
        + (f"; it stands in for the real one: {case.stand_in}" if case.stand_in else ""),
        fix=f"name an image of {wanted} as `image` under [base], or make the cell one of {said[0]}: "
        "the axes `distribution` or `ubuntu` choose it",
    )

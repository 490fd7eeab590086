"""What the base image itself says that it is, and which others would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.audit.audit_context import named
from builder.jetson.distributions import distributions, platforms
from builder.model.audits import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.audit.audit_context import AuditContext
    from builder.jetson.distributions import Distribution
    from builder.model.locks import Platform

_FILE = "/etc/os-release"


def other_distribution(case: AuditContext) -> Iterator[Finding]:
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


def bases_for(platform: Platform, fits: Callable[[Distribution], bool]) -> Iterator[str]:
    """Yield the distributions that fit and on which a cell's Python can be had, with what that needs besides.

    For a Jetson they are those that containers for its release are made on.
    """
    made_on = {
        name
        for row in platforms()
        if row.l4t == platform.l4t
        for name in (row.distribution, *(also.distribution for also in row.also_on))
    }
    for row in distributions():
        if row.name == platform.distribution or not fits(row) or (platform.l4t and row.name not in made_on):
            continue
        if platform.python == row.python:
            yield row.name
        elif platform.python in row.standalone:
            yield f"{row.name} (its Python {platform.python} is fetched from GitHub, or `mirror` under [python])"

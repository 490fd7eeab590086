"""Checks whether the registries of a recipe's base images answer, and have them for its architecture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from builder.errors import NetworkError, RecipeError, RegistryError
from builder.host.concurrency import TaskGroup
from builder.project.doctor.check_table import ok, problem
from builder.remote.http import Patience, Retry
from builder.remote.registry.base_lookup import resolve_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.errors import JbuildError
    from builder.project.doctor.check_table import Check, DoctorContext

_PATIENCE = Patience(connect_s=5.0, read_s=10.0)


def check(case: DoctorContext) -> Iterator[Check]:
    """Look up every base image of the recipe's cells, as a lock does."""
    images = list(dict.fromkeys((job.base, job.platform.architecture) for job in case.jobs))
    if not images:
        return
    with TaskGroup(len(images)) as group:
        yield from group.map(partial(_look_up, case), images)


def _look_up(case: DoctorContext, image: tuple[str, str]) -> Check:
    name, architecture = image
    try:
        base = resolve_digest(name, case.session.config, architecture, retry=Retry(tries=1), patience=_PATIENCE)
    except NetworkError as error:
        return problem("base image", "silent", _with_name(error, name), fix=error.hint or "check the network")
    except (RegistryError, RecipeError) as error:
        return problem("base image", "refused", _with_name(error, name), fix=error.hint or "correct [base]")
    mirror = "" if base.used == name else f", from {base.used}"
    return ok("base image", f"{name}{mirror}")


def _with_name(error: JbuildError, name: str) -> str:
    return error.message if name in error.message else f"{name}: {error.message}"

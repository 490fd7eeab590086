"""Runs all checks, and applies the safe fixes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder.errors import EngineError, JbuildError
from builder.host.concurrency import TaskGroup
from builder.host.engine.docker import find_engine
from builder.host.paths import is_carried
from builder.host.process import run
from builder.jetson.device import this_device
from builder.project.doctor import (
    base_check,
    disk_check,
    emulation_check,
    jetson_check,
    network_check,
    proxy_check,
    tools_check,
    vault_check,
)
from builder.project.doctor.check_table import Check, DoctorContext, check_rows, skipped
from builder.recipe.matrix import expand, job_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from builder.host.console import Console
    from builder.host.session import Session
    from builder.model.recipes import Recipe

_WITHIN_S = 1200
_NO_BUILDS = "only builds need it, and this machine only loads and runs images"
_CHECKS: tuple[Callable[[DoctorContext], Iterable[Check]], ...] = (
    tools_check.check,
    tools_check.engine,
    emulation_check.check,
    proxy_check.check,
    network_check.check,
    base_check.check,
    network_check.registries,
    network_check.stand_ins,
    vault_check.check,
    disk_check.check,
    jetson_check.check,
)


# Their checks matter only where images are built.
_FOR_BUILDS = (network_check.check, base_check.check, disk_check.check)


def doctor_context(session: Session, recipe: Recipe | None = None) -> DoctorContext:
    """Return the context of the checks, with the engine if one answers.

    Without a recipe and a project with recipes, a Jetson, and a machine whose jbuild came with a bundle, build nothing.
    """
    jobs = tuple(job_of(recipe, cell) for cell in expand(recipe) if not cell.impossible) if recipe else ()
    builds = recipe is not None or (session.workspace.project / "recipes").is_dir()
    builds = builds or not (is_carried() or this_device())
    case = DoctorContext(session=session, recipe=recipe, jobs=jobs, builds=builds)
    try:
        return replace(case, engine=find_engine(session.workspace, session.config.gpu))
    except EngineError as error:
        location = f" ({error.where})" if error.where else ""
        return replace(case, refusal=f"{error.message}{location}", hint=error.hint or "")


def examine(case: DoctorContext) -> Iterator[Check]:
    """Yield the checks in the order of the table. They run in parallel, since most wait for servers."""
    order, results = list(check_rows()), list[Check]()
    console, checks = case.session.console, [each for each in _CHECKS if case.builds or each not in _FOR_BUILDS]
    with console.task("checking", len(checks), unit="checks") as task, TaskGroup(len(checks)) as group:
        for future in [group.submit(lambda check: list(check(case)), check) for check in checks]:
            results += future.result()
            task.advance(1)
    if not case.builds:
        results += [skipped(row.name, _NO_BUILDS) for row in check_rows().values() if row.builds_only]
    yield from sorted(results, key=lambda check: order.index(check.name))


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedFix:
    """A fix that was run, and its error if it failed."""

    command: str
    failure: str | None = None


def apply_fixes(checks: Iterable[Check], console: Console) -> list[AppliedFix]:
    """Print and run the safe commands of failed checks, also after one that fails."""
    commands = dict.fromkeys(check.fix for check in checks if check.fix and check.state in {"warning", "error"})
    return [_run(argv, console) for argv in commands]


def _run(argv: tuple[str, ...], console: Console) -> AppliedFix:
    command = shlex.join(argv)
    console.note(f"running: {command}")
    try:
        run(argv, timeout_s=_WITHIN_S, on_line=console.say)
    except JbuildError as error:
        output = (error.log or error.message).strip().splitlines()
        return AppliedFix(command=command, failure=output[-1] if output else error.message)
    return AppliedFix(command=command)

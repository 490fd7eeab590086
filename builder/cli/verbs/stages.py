"""`jbuild lock`, `render`, `build` and `push`: aliases of `jbuild recipe --until STAGE`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from builder.cli.cell_selection import CellSelection, naming, recipe_verb
from builder.cli.results import VerbFailure, failure_of, show, show_failures
from builder.cli.run_view import RunResult
from builder.cli.verb_options import (
    RUN_OPTIONS,
    builder_option,
    force_tags_option,
    push_registry_option,
    refuse_options,
)
from builder.cli.verbs.recipe import run
from builder.errors import IntegrityError
from builder.host.paths import check_cache
from builder.model.locks import LockFinding
from builder.pipeline.order import RunOptions

if TYPE_CHECKING:
    from builder.lock.lock_check import CellCheck

_ALL = "*"
_PACKAGE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EARLIER = "Runs earlier stages first if they are missing or out of date."


def _packages(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name != _ALL and not re.fullmatch(_PACKAGE, name):
            raise click.BadParameter(f"{name!r} is not the name of a package")
    return tuple(re.sub(r"[-_.]+", "-", name).lower() for name in names)


def _alias(stage: str, text: str, *options: Callable[[Any], Any]) -> click.Command:
    """Return the verb of a stage with this help and these options besides those of all."""

    @recipe_verb(stage, *options, *RUN_OPTIONS, text=text)
    def verb(selection: CellSelection, force: bool, locked: bool, jobs: int, check: bool = False, **more: Any) -> int:
        if check:
            refuse_options(("force", "locked", "jobs", "upgrade"), "has no effect with --check")
            return check_locks(selection)
        run_options = RunOptions(until=stage, again=stage if force else None, locked_only=locked, **more)
        return run(selection, run_options, parallel=jobs)

    return verb


lock = _alias(
    "lock",
    """Lock the cells of RECIPE: exact wheels, the digest of the base image, and model files.

    Keeps locked versions that still fit, and shows each change with its reason.
    """,
    click.option(
        "--check", is_flag=True, help="Check that locks are current and that their files are available; change nothing."
    ),
    click.option(
        "--upgrade",
        is_flag=False,
        flag_value=_ALL,
        multiple=True,
        metavar="[PACKAGE]",
        callback=_packages,
        help="Upgrade this package; without a name, all packages. Can be repeated.",
    ),
)
render = _alias(
    "render",
    f"Write a Dockerfile for each cell of RECIPE. {_EARLIER}",
    click.option(
        "--standalone",
        is_flag=True,
        help="Also write the files of its layers, which plain `docker buildx build` needs.",
    ),
)
build = _alias(
    "build",
    f"Build the images of RECIPE's cells. {_EARLIER}",
    click.option("--verify", is_flag=True, help="Build a second time without a cache, and compare the two images."),
    builder_option,
)
push = _alias(
    "push",
    f"Push tested images of RECIPE by digest, then set their tags. {_EARLIER}",
    force_tags_option,
    push_registry_option,
    builder_option,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedLock:
    """A lock that was checked."""

    cell: str
    current: bool
    error: VerbFailure | None
    findings: tuple[LockFinding, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LockCheck:
    """With --check: whether locks are current, and indexes still serve their files."""

    recipe: str
    cells: tuple[CheckedLock, ...]


LockResult = RunResult | LockCheck


def check_locks(selection: CellSelection) -> int:
    """Check locks; a locked file that is gone or changed is an error unless the wheelhouse has it."""
    from builder.lock.lock_check import check_lock  # noqa: PLC0415  # slow to import

    session, recipe, jobs, checks = selection.session, selection.recipe.name, selection.possible_jobs(), []
    check_cache(session.workspace)
    with session.console.task(f"checking the locks of {recipe}", len(jobs), unit="cells") as task:
        for job in jobs:
            checks.append(check_lock(job, session))
            task.advance(1)
    errors = [(check.cell, naming(check.error, recipe)) for check in checks if check.error]
    show_failures(errors, session.console)
    text = "\n".join(line for check in checks for line in _lines(check))
    show(LockCheck(recipe=recipe, cells=tuple(map(_checked, checks))), text, session.console)
    if errors:
        return errors[0][1].exit_code
    lost = any(not finding.kept for check in checks for finding in check.findings)
    return IntegrityError.exit_code if lost else 0


def _lines(check: CellCheck) -> list[str]:
    heading = f"{check.cell}: {'has problems' if check.error or check.findings else 'current'}"
    return [heading, *(f"  {finding.filename}: {finding.says}" for finding in check.findings)]


def _checked(check: CellCheck) -> CheckedLock:
    error = failure_of(check.error) if check.error else None
    return CheckedLock(cell=check.cell, current=error is None, error=error, findings=check.findings)

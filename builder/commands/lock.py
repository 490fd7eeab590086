"""`jbuild lock`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from builder import records
from builder.commands.common import as_json, cell_option, open_recipe, open_session, recipe_argument
from builder.commands.working import run_options, work
from builder.errors import IntegrityError
from builder.pipeline.order import RunOptions
from builder.report.failures import show_failures
from builder.resolve.jobs import job_of
from builder.workspace import check_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.resolve.checking import CellCheck

_ALL = "*"
_PACKAGE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"


@click.command("lock")
@recipe_argument
@cell_option
@click.option("--check", is_flag=True, help="Change nothing: are the locks current, and do indexes still serve them?")
@click.option(
    "--upgrade",
    is_flag=False,
    flag_value=_ALL,
    multiple=True,
    metavar="[PACKAGE]",
    callback=lambda _, __, names: _packages(names),
    help="Take newer versions of this package, or of all; may be repeated.",
)
@run_options
@as_json
def command(
    recipe: str,
    selectors: tuple[str, ...],
    check: bool,
    upgrade: tuple[str, ...],
    force: bool,
    locked: bool,
    jobs: int,
    registries: tuple[str, ...],
    builders: tuple[str, ...],
    as_json: bool,
) -> int:
    """Lock the cells of RECIPE: the exact wheels, the base image's digest, the model files.

    Versions that are locked already are kept where they still fit; what changes is said, with the reason.
    """
    if check:
        if force or upgrade:
            raise click.UsageError("--check changes nothing: leave --force and --upgrade out")
        return _check(recipe, selectors, as_json=as_json)
    options = RunOptions(
        until="lock",
        again="lock" if force else None,
        locked_only=locked,
        upgrade=upgrade,
        registries=registries,
        builders=builders,
    )
    return work(recipe, selectors, options, at_once=jobs, dry_run=False, as_json=as_json)


def _check(recipe: str, selectors: Sequence[str], *, as_json: bool) -> int:
    """Check locks; a locked file that is gone or changed is an error unless the wheelhouse has it."""
    from builder.resolve.checking import check_lock  # noqa: PLC0415  # needs the room of indexes

    session = open_session(as_json=as_json)
    check_cache(session.workspace)
    found, cells = open_recipe(recipe, selectors, session.workspace)
    possible = [cell for cell in cells if not cell.impossible]
    checks = []
    with session.console.task(f"checking the locks of {found.name}", len(possible), unit="cells") as task:
        for cell in possible:
            checks.append(check_lock(job_of(found, cell), session))
            task.advance(1)
    show_failures([(each.cell, each.error) for each in checks if each.error], session.console)
    text = "\n".join(line for each in checks for line in _lines(each))
    session.console.result({"recipe": found.name, "cells": [_plain(each) for each in checks]}, text)
    codes = [each.error.exit_code for each in checks if each.error]
    lost = any(not finding.kept for each in checks for finding in each.findings)
    return codes[0] if codes else IntegrityError.exit_code if lost else 0


def _lines(checked: CellCheck) -> list[str]:
    wrong = checked.error or checked.findings
    heading = f"{checked.cell}: {'not as it should be' if wrong else 'current'}"
    return [heading, *(f"  {finding.filename}: {finding.says}" for finding in checked.findings)]


def _plain(checked: CellCheck) -> dict[str, Any]:
    error = checked.error.as_json() if checked.error else None
    findings = records.plain(checked.findings)
    return {"cell": checked.cell, "current": error is None, "error": error, "findings": findings}


def _packages(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name != _ALL and not re.fullmatch(_PACKAGE, name):
            raise click.BadParameter(f"{name!r} is not a package's name")
    return tuple(re.sub(r"[-_.]+", "-", name).lower() for name in names)

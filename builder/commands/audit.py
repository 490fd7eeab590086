"""`jbuild audit`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder import records
from builder.audit.loose import audit_wheels
from builder.audit.stage import audit_cell
from builder.audit.tables import rules
from builder.commands import complete
from builder.commands.common import as_json, cell_option, open_recipe, open_session
from builder.commands.working import possible_jobs
from builder.errors import AuditError, CellsFailedError, JbuildError, UsageError
from builder.jetson.platform import check_value
from builder.report.audit import as_json as described
from builder.report.audit import explained, text
from builder.report.failures import show_failures
from builder.resolve.stage import lock_cell
from builder.tomldoc import suggest
from builder.workspace import check_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.audit.model import Audit
    from builder.resolve.model import Job
    from builder.session import Session


@click.command("audit")
@click.argument("names", nargs=-1, metavar="RECIPE | --wheels FILE...", shell_complete=complete.recipes)
@click.option("--wheels", is_flag=True, help="Audit these wheel files together, without a recipe.")
@cell_option
@click.option("--base", metavar="IMAGE", help="With --wheels: the image that they are for.")
@click.option("--sm", "sms", multiple=True, type=click.IntRange(20, 999), help="With --wheels: a GPU, such as 87.")
@click.option("--l4t", metavar="RELEASE", help="With --wheels: the Jetson release, whose driver and GPUs count.")
@click.option("--python", metavar="X.Y", help="With --wheels: the Python; default the distribution's.")
@click.option("--apt", multiple=True, metavar="PACKAGE", help="With --wheels: a package that the image has besides.")
@click.option("--files", is_flag=True, help="With --json: what the loader would say of every single file.")
@click.option("--explain", metavar="RULE", help="Tell what a rule finds, and how a finding of it is waived.")
@as_json
def command(
    names: tuple[str, ...],
    wheels: bool,
    selectors: tuple[str, ...],
    explain: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Audit the cells of RECIPE: what of their wheels would not load or not run on the device, and why."""
    session = open_session(as_json=as_json)
    if explain:
        return _explain(explain, session)
    check_cache(session.workspace)
    _check_options(names, wheels=wheels, selectors=selectors, options=options)
    if wheels:
        paths = [Path(name) for name in names]
        audits = [
            audit_wheels(
                paths,
                session,
                base=options["base"],
                sms=options["sms"],
                l4t=options["l4t"],
                python=options["python"],
                apt=options["apt"],
            )
        ]
        return _conclude({}, audits, session, files=options["files"])
    recipe, cells = open_recipe(names[0], selectors, session.workspace)
    jobs = possible_jobs(recipe, cells, session)
    audits, failures = _audits(jobs, session)
    return _conclude({"recipe": recipe.name}, audits, session, files=options["files"], failures=failures)


def _audits(jobs: Sequence[Job], session: Session) -> tuple[list[Audit], list[tuple[str, JbuildError]]]:
    """Audit every cell; of several, one that cannot be locked or read does not stop the others."""
    audits: list[Audit] = []
    failures: list[tuple[str, JbuildError]] = []
    for job in jobs:
        try:
            audits.append(audit_cell(job, lock_cell(job, session).lock, session))
        except JbuildError as error:
            if len(jobs) == 1:
                raise
            failures.append((job.cell.id, error))
    return audits, failures


def _explain(name: str, session: Session) -> int:
    rule = next((each for each in rules() if each.id == name), None)
    if rule is None:
        hint = suggest(name, [each.id for each in rules()], noun="rules")
        raise UsageError(f"the audit has no rule `{name}`", hint=hint)
    session.console.result(records.plain(rule), explained(rule))
    return 0


def _check_options(names: Sequence[str], *, wheels: bool, selectors: Sequence[str], options: dict[str, Any]) -> None:
    if not names:
        raise click.UsageError("Missing argument 'RECIPE | --wheels FILE...'")
    loose = [name for name in ("base", "sms", "l4t", "python", "apt") if options[name]]
    if wheels and selectors:
        raise click.UsageError("--cell is for recipes, --wheels for files")
    if not wheels and loose:
        raise click.UsageError(f"--{loose[0].rstrip('s')} goes with --wheels: a recipe says it itself")
    if not wheels and len(names) > 1:
        raise click.UsageError("one recipe at a time; for wheel files add --wheels")
    if options["l4t"] and (mistake := check_value("l4t", options["l4t"])):
        raise UsageError(f"--l4t: {mistake[0]}", hint=mistake[1])
    if options["python"] and not re.fullmatch(r"3\.[0-9]{1,2}", options["python"]):
        raise click.UsageError(f"{options['python']!r} is not a Python version such as 3.10")


def _conclude(
    about: dict[str, Any],
    audits: Sequence[Audit],
    session: Session,
    *,
    files: bool,
    failures: Sequence[tuple[str, JbuildError]] = (),
) -> int:
    cells = [described(audit, files=files) for audit in audits]
    cells += [{"cell": cell, "error": error.as_json()} for cell, error in failures]
    show_failures(failures, session.console)
    shown = {**about, **cells[0]} if len(cells) == 1 else {**about, "cells": cells}
    blocks = [text(audit) for audit in audits]
    blocks += [f"not audited: {', '.join(cell for cell, _ in failures)}"] if failures else []
    session.console.result(shown, "\n\n".join(blocks))
    if failures:
        return CellsFailedError.exit_code
    return AuditError.exit_code if any(audit.counted("error") for audit in audits) else 0

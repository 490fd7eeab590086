"""Compares the audit's verdict on every shared object of real stacks with the loader's result in an arm64 container.

The cache keeps the loader's results: only the first run takes long (half an hour), and an interrupted run continues
with the next files. One container runs at a time.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from agreement.compare import audit, compare
from agreement.report import agreement, write_section
from agreement.stack_project import StackProject
from agreement.stacks import read_stacks
from agreement.truth import collect
from builder.cli.results import table
from builder.errors import JbuildError, UsageError
from builder.host.wording import suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agreement.compare import Comparison
    from agreement.stacks import Stack


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; write the page's section if all stacks were compared. The exit code is 1 on a disagreement."""
    parser = argparse.ArgumentParser(prog="scripts/audit-agreement", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="compare only this stack; repeatable"
    )
    parser.add_argument("--truth", action="store_true", help="only run the loader, do not audit")
    parser.add_argument("--list", action="store_true", help="list the stacks")
    options = parser.parse_args(arguments)
    # SIGTERM acts like Ctrl-C, so that the container ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stacks = read_stacks()
    project = StackProject.open(stacks)
    try:
        chosen = _chosen(stacks, options.only)
    except UsageError as error:
        project.session.console.failure(error)
        return error.exit_code
    if options.list:
        console = project.session.console
        rows = [(stack.name, stack.distribution, stack.special) for stack in stacks]
        console.result(None, table(("stack", "distribution", "purpose"), rows))
        return 0
    return _work(chosen, project, truth_only=options.truth, complete=chosen == stacks)


def _chosen(stacks: tuple[Stack, ...], names: Sequence[str]) -> tuple[Stack, ...]:
    by_name = {stack.name: stack for stack in stacks}
    for name in names:
        if name not in by_name:
            raise UsageError(f"unknown stack `{name}`", hint=suggest(name, by_name, noun="stacks"))
    return tuple(by_name[name] for name in names) or stacks


def _work(stacks: tuple[Stack, ...], project: StackProject, *, truth_only: bool, complete: bool) -> int:
    console, compared, failed = project.session.console, [], False
    for stack in stacks:
        try:
            truth = collect(stack, project)
            if not truth_only:
                compared.append(compare(stack, truth, audit(stack, project)))
        except JbuildError as error:
            console.note(f"{stack.name}:")
            console.failure(error)
            failed = True
    if compared:
        text = agreement(compared)
        console.result(None, text)
        if complete and not failed:
            write_section("loader", text)
    return int(failed or any(_differs(comparison) for comparison in compared))


def _differs(comparison: Comparison) -> bool:
    c = comparison
    return bool(c.disagreements or c.broken_rows or c.false_errors or c.unreported or c.differently_injected)


if __name__ == "__main__":
    sys.exit(main())

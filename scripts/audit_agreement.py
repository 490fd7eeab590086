"""Compares the audit's verdict on every shared object of real stacks with what the loader says in an arm64 container.

What the loader says is kept in the cache: only the first run takes long (half an hour), and one that was interrupted
goes on where it ended. One container runs at a time.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from agreement.compare import audit, compare
from agreement.place import Place
from agreement.report import agreement, write_section
from agreement.stacks import read_stacks
from agreement.truth import collect
from builder.cli.results import table
from builder.errors import JbuildError, UsageError
from builder.host.toml.documents import suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agreement.compare import Comparison
    from agreement.stacks import Stack


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and write the page's section where all stacks were; exit code 1: some do not agree."""
    parser = argparse.ArgumentParser(prog="scripts/audit-agreement", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this stack; repeatable")
    parser.add_argument("--truth", action="store_true", help="only ask the loader, do not audit")
    parser.add_argument("--list", action="store_true", help="show the stacks")
    options = parser.parse_args(arguments)
    # As Ctrl-C does, so that the container ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stacks = read_stacks()
    place = Place.open(stacks)
    try:
        wanted = _chosen(stacks, options.only)
    except UsageError as error:
        place.session.console.failure(error)
        return error.exit_code
    if options.list:
        console = place.session.console
        rows = [(stack.name, stack.distribution, stack.special) for stack in stacks]
        console.result(None, table(("stack", "distribution", "what is special"), rows))
        return 0
    return _work(wanted, place, truth_only=options.truth, whole=wanted == stacks)


def _chosen(stacks: tuple[Stack, ...], names: Sequence[str]) -> tuple[Stack, ...]:
    known = {stack.name: stack for stack in stacks}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no stack `{name}`", hint=suggest(name, known, noun="stacks"))
    return tuple(known[name] for name in names) or stacks


def _work(stacks: tuple[Stack, ...], place: Place, *, truth_only: bool, whole: bool) -> int:
    console, compared, failed = place.session.console, [], False
    for stack in stacks:
        try:
            truth = collect(stack, place)
            if not truth_only:
                compared.append(compare(stack, truth, audit(stack, place)))
        except JbuildError as error:
            console.note(f"{stack.name}:")
            console.failure(error)
            failed = True
    if compared:
        text = agreement(compared)
        console.result(None, text)
        if whole and not failed:
            write_section("loader", text)
    return int(failed or any(_differs(comparison) for comparison in compared))


def _differs(comparison: Comparison) -> bool:
    found = comparison
    return bool(found.disagreements or found.broken_rows or found.false_errors or found.unsaid or found.other_injected)


if __name__ == "__main__":
    sys.exit(main())

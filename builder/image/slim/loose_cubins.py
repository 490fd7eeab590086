"""Cubins that are files of their own: those for other GPUs are left out as a whole.

A wheel can have ten thousand of them, so a report has one row for all that a glob of the table matches.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from builder.audit.byte_source import MalformedError
from builder.audit.kernel_names import loose_cubin
from builder.audit.runnable_code import runs_on
from builder.audit.slim_tables import cubin_glob
from builder.image.slim.slim_library import amounts_of
from builder.model.slimming import SlimmedLibrary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.audit.byte_source import ByteSource
    from builder.audit.fatbin import Code
    from builder.model.slimming import SlimRules


class LooseCubin(NamedTuple):
    """A cubin that is a file: the glob that matches it, its code (None if it cannot be read), and whether it stays."""

    glob: str
    code: Code | None
    size: int
    stays: bool


def judge_cubin(source: ByteSource, package: str, path: str, rules: SlimRules) -> LooseCubin | None:
    """Return whether a cubin of a wheel stays; None if the table does not name the file, which then stays too."""
    glob = cubin_glob(package, path)
    if glob is None:
        return None
    try:
        code = loose_cubin(source.read(0, source.size))[0].code
    except MalformedError:
        return LooseCubin(glob, None, source.size, stays=True)
    stays = any(runs_on(code.target, sm, rules, unknown=True) for sm in rules.sms)
    return LooseCubin(glob, code, source.size, stays)


def cubin_reports(cubins: Iterable[LooseCubin]) -> Iterator[SlimmedLibrary]:
    """Yield a report on the cubins of each glob."""
    for glob, rows in groupby(sorted(cubins, key=attrgetter("glob")), key=attrgetter("glob")):
        members = list(rows)
        kept, gone = ([row for row in members if row.stays is stays] for stays in (True, False))
        yield SlimmedLibrary(
            path=glob,
            method="files" if gone else "unchanged",
            before=sum(row.size for row in members),
            after=sum(row.size for row in kept),
            retained=amounts_of((row.code, row.size) for row in kept),
            removed=amounts_of((row.code, row.size) for row in gone),
        )

"""Files of wheels that a recipe keeps out of the image: which they are, and what is wrong with the choice."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.audit_context import named
from builder.audit.slim_choice import excluded_by, excluded_globs
from builder.model.audits import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.audit.audit_context import AuditContext
    from builder.model.audits import Binary, WheelFacts
    from builder.model.recipes import ImageSpec
    from builder.model.wheels import LockedWheel

    _Sonames = dict[str, list[tuple[LockedWheel, str]]]

RULE = "excluded-file"


def facts_in_image(
    image: ImageSpec, wheels: Iterable[LockedWheel], facts: Mapping[str, WheelFacts]
) -> dict[str, WheelFacts]:
    """Return the facts of wheels, by their sha256, without the binaries that the image does without."""
    return {wheel.sha256: _without(facts[wheel.sha256], excluded_globs(image, wheel.name)) for wheel in wheels}


def _without(facts: WheelFacts, globs: Sequence[str]) -> WheelFacts:
    if not globs:
        return facts
    return replace(facts, binaries=tuple(row for row in facts.binaries if excluded_by(row.path, globs) is None))


def exclusions(
    image: ImageSpec, wheels: Sequence[LockedWheel], facts: Mapping[str, WheelFacts], case: AuditContext
) -> Iterator[Finding]:
    """Yield excluded files that something needs for certain, and globs without a file.

    `facts` are those of the whole wheels, `case` has what the image has. What opens a file by its name at run time
    only a smoke run shows.
    """
    if not image.exclude_files:
        return
    sonames: _Sonames = defaultdict(list)
    for wheel in wheels:
        globs = excluded_globs(image, wheel.name)
        gone = {path for path in (facts[wheel.sha256].paths if globs else ()) if excluded_by(path, globs)}
        yield from _imported(wheel, sorted(gone), facts[wheel.sha256].binaries)
        for binary in facts[wheel.sha256].binaries:
            if binary.path in gone:
                for name in {posixpath.basename(binary.path), binary.soname or posixpath.basename(binary.path)}:
                    sonames[name].append((wheel, binary.path))
    yield from _needed(sonames, case)
    yield from _unmatched(image.exclude_files, wheels, facts)


def _imported(wheel: LockedWheel, gone: Iterable[str], binaries: Iterable[Binary]) -> Iterator[Finding]:
    """Yield excluded files that are Python modules or metadata of the wheel."""
    modules = {binary.path: binary.inits[0] for binary in binaries if binary.inits}
    kinds: dict[str, list[str]] = defaultdict(list)
    for path in gone:
        if path.partition("/")[0].endswith(".dist-info"):
            kinds["is metadata of the wheel"].append(path)
        elif path in modules or path.endswith(".py"):
            kinds["is a Python module"].append(path)
    for detail, (first, *others) in kinds.items():
        fix = "leave it in; `replace` in [packages] leaves out a whole package"
        yield _refused(wheel, first, detail, fix, others)


def _needed(sonames: _Sonames, case: AuditContext) -> Iterator[Finding]:
    """Yield excluded libraries that the loader needs for a file of the image."""
    nodes = case.environment.nodes
    provided = {name for node in nodes for name in (node.name, node.binary.soname)}
    for node in nodes:
        for name in node.binary.needed:
            for wheel, path in sonames.get(name, ()) if name not in provided else ():
                detail = f"{named(node.wheel)}: {node.file} needs it"
                yield _refused(wheel, path, detail, "leave it in, or exclude that file too")


def _unmatched(
    rows: Iterable[tuple[str, tuple[str, ...]]], wheels: Sequence[LockedWheel], facts: Mapping[str, WheelFacts]
) -> Iterator[Finding]:
    """Yield a warning for each glob that matches nothing."""
    for name, globs in rows:
        named_so = [wheel for wheel in wheels if fnmatchcase(wheel.name, name)]
        paths = [path for wheel in named_so for path in facts[wheel.sha256].paths]
        detail = "matches no file of the wheels" if named_so else "no wheel of the lock has this name"
        for glob in globs:
            if not any(fnmatchcase(path, glob) for path in paths):
                yield Finding(
                    rule=RULE,
                    severity="warning",
                    wheel=name,
                    file=glob,
                    detail=f"`exclude-files`: {detail}",
                    fix="correct it, or remove it",
                )


def _refused(wheel: LockedWheel, file: str, detail: str, fix: str, also: Iterable[str] = ()) -> Finding:
    return Finding(
        rule=RULE,
        severity="error",
        wheel=named(wheel),
        file=file,
        detail=f"`exclude-files` leaves it out, and {detail}",
        fix=fix,
        also=tuple(also),
    )

"""Decides which packages of a cell lose GPU code for other GPUs, or files: a function of recipe, cell and table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builder.audit.rule_tables import tables
from builder.audit.slim_tables import slim_tables, unchanged_row
from builder.jetson.boards import sm_number
from builder.model.slimming import SlimRules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.model.locks import Job
    from builder.model.platforms import Platform
    from builder.model.recipes import ImageSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimChoice:
    """Whether a package loses its GPU code for other GPUs, and why."""

    slim: bool
    why: str


def slim_rules(platform: Platform) -> SlimRules:
    """Return which code stays for a platform's GPUs."""
    return SlimRules(sms=tuple(map(sm_number, platform.sms)), same_major=tables().same_major(platform.l4t))


def choose(job: Job, package: str) -> SlimChoice:
    """Return the choice for a package of a cell: the recipe's own rule, the table's, then the cell's."""
    image = job.spec.image
    if not job.platform.sms:
        return SlimChoice(slim=False, why="the platform has no GPU")
    for pattern, slim in image.slim_packages:
        if fnmatchcase(package, pattern):
            return SlimChoice(slim=slim, why=f"the recipe says so of {pattern}")
    cell = _of_cell(job)
    row = unchanged_row(package)
    return SlimChoice(slim=False, why=row.why) if cell.slim and row else cell


def wheel_rules(job: Job, package: str) -> SlimRules | None:
    """Return what goes out of a package of a cell: GPU code, files, or both; None if it stays as it is."""
    globs = excluded_globs(job.spec.image, package) or None
    if choose(job, package).slim:
        return replace(slim_rules(job.platform), exclude_files=globs)
    return SlimRules(sms=(), same_major=None, exclude_files=globs) if globs else None


def excluded_globs(image: ImageSpec, package: str) -> tuple[str, ...]:
    """Return the globs of a package's files that the image does without."""
    rows = image.exclude_files or ()
    return tuple(dict.fromkeys(glob for name, globs in rows if fnmatchcase(package, name) for glob in globs))


def excluded_by(path: str, globs: Iterable[str]) -> str | None:
    """Return the first glob that matches a file, relative to site-packages; None if it stays."""
    return next((glob for glob in globs if fnmatchcase(path, glob)), None)


def in_words(job: Job) -> str | None:
    """Return which GPU code and which files a cell's image lacks, or None if it has all."""
    rows = job.spec.image.exclude_files or ()
    without = (f"{name} without {', '.join(globs)}" for name, globs in rows if globs)
    return "; ".join([*_code_in_words(job), *without]) or None


def _code_in_words(job: Job) -> Iterator[str]:
    rules, cell, sms = job.spec.image.slim_packages, _of_cell(job), ", ".join(job.platform.sms)
    if not sms or not (cell.slim or any(slim for _, slim in rules)):
        return
    named = [pattern for pattern, slim in rules if slim is not cell.slim]
    if not cell.slim:
        yield f"GPU code for SM {sms} only in {', '.join(named)}"
        return
    rows = [
        f"{pattern} ({row.why})"
        for row in slim_tables().unchanged
        for pattern in row.packages
        if not any(fnmatchcase(pattern, rule) for rule, _ in rules)
    ]
    exceptions = [*named, *rows]
    yield f"GPU code for SM {sms} only" + (f", except {', '.join(exceptions)}" if exceptions else "")


def _of_cell(job: Job) -> SlimChoice:
    if job.spec.image.slim is not None:
        return SlimChoice(slim=job.spec.image.slim, why="the recipe says so")
    if job.spec.image.compiles:
        return SlimChoice(slim=True, why="the recipe precompiles kernels")
    if job.cell.names_sms:
        return SlimChoice(slim=True, why="the cell names its GPUs")
    return SlimChoice(slim=False, why="the cell does not name its GPUs")

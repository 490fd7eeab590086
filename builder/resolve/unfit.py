"""Why a file of an index cannot be taken for a cell, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.resolve.target import machine, tags

if TYPE_CHECKING:
    from collections.abc import Iterable

    from packaging.tags import Tag
    from packaging.version import Version

    from builder.index.model import Index, IndexFile
    from builder.jetson.model import Platform

_MANYLINUX = re.compile(r"manylinux_2_(\d+)_(.+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A wheel of an index: its version, and why it is unfit for the cell; None if it fits."""

    file: IndexFile
    version: Version
    unfit: str | None


def judge(files: Iterable[IndexFile], index: Index, platform: Platform, *, before: str | None = None) -> list[Judged]:
    """Return the wheels of a page with what speaks against each, whatever version is wanted.

    `before` is the cut-off date of the recipe. Files that are no wheels are left out.
    """
    fitting = frozenset(tags(platform))
    found = []
    for file in files:
        try:
            _, version, _, own = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        unfit = _index_says(file, index, platform, before) or _tags_say(own, fitting, platform)
        found.append(Judged(file=file, version=version, unfit=unfit))
    return found


def _index_says(file: IndexFile, index: Index, platform: Platform, before: str | None) -> str | None:
    if any(part in file.url for part in index.foreign_files):
        return "it is the public index's build, which this index only passes on"
    if file.sha256 is None:
        return "the index gives no sha256 for it"
    if file.yanked is not None:
        return f"it was yanked{f': {file.yanked}' if file.yanked else ''}"
    if file.requires_python and not _allows(file.requires_python, platform.python):
        return f"it wants Python {file.requires_python}, the cell has {platform.python}"
    if before and file.upload_time and file.upload_time[:10] >= before:
        return f"it came on {file.upload_time[:10]}, the recipe takes what was released before {before}"
    return None


def _allows(requires_python: str, python: str) -> bool:
    try:
        specifier = SpecifierSet(requires_python)
    except InvalidSpecifier:
        return True
    # The newest release of the minor version, as installers see it.
    return specifier.contains(f"{python}.99") or specifier.contains(f"{python}.0")


def _tags_say(own: frozenset[Tag], fitting: frozenset[Tag], platform: Platform) -> str | None:
    if own & fitting:
        return None
    here = [tag for tag in own if tag.platform == "any" or tag.platform.endswith(machine(platform))]
    if not here:
        return f"it is for {_names(tag.platform for tag in own)}, the cell is {machine(platform)}"
    on_glibc = [tag for tag in here if _too_new(tag.platform, platform)]
    if len(on_glibc) == len(here):
        wanted = min(int(found[1]) for tag in on_glibc if (found := _MANYLINUX.fullmatch(tag.platform)))
        return f"it needs glibc 2.{wanted}, the cell has {platform.glibc}"
    if all(tag.platform.startswith("musllinux") for tag in here):
        return "it is for musl, the cell has glibc"
    cell = f"cp{platform.python.replace('.', '')}"
    return f"it is for {_names(f'{tag.interpreter}-{tag.abi}' for tag in here)}, the cell has {cell}"


def _too_new(name: str, platform: Platform) -> bool:
    found = _MANYLINUX.fullmatch(name)
    return bool(found) and int(found[1] if found else 0) > int(platform.glibc.split(".")[1])


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))

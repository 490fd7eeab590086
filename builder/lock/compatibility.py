"""Checks an index's wheels for compatibility with a cell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.host.index_rows import DEFAULT
from builder.lock.uv_target import machine, tags
from builder.remote.index.index_view import is_foreign, own_wheels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from packaging.tags import Tag
    from packaging.version import Version

    from builder.model.platforms import Platform
    from builder.remote.index.listing import Index, IndexFile

_LINUX = re.compile(r"(?:many|musl)?linux(?:1|20[0-9]+|_[0-9]+_[0-9]+)?_(.+)")
_MANYLINUX = re.compile(r"manylinux_2_(\d+)_(.+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedWheel:
    """A wheel of an index, its version, and why it does not fit the cell, or None if it fits.

    `too_late` is the upload day (ISO 8601) if only the recipe's date excludes the wheel.
    """

    file: IndexFile
    version: Version
    unfit: str | None
    too_late: str | None = None


@lru_cache
def _compatible(platform: Platform) -> tuple[frozenset[Tag], frozenset[tuple[str, str]]]:
    """Return the compatible tags of a cell, and the Pythons and ABIs among them."""
    fitting = frozenset(tags(platform))
    return fitting, frozenset((tag.interpreter, tag.abi) for tag in fitting)


def judge(
    files: Iterable[IndexFile],
    index: Index,
    platform: Platform,
    *,
    before: str | None = None,
    yanked_too: bool = False,
) -> list[JudgedWheel]:
    """Return the wheels of a page, all versions, with the reason if they do not fit.

    `before` is the cut-off date of the recipe. Yanked files fit only exact requirements. Files other than wheels are
    left out.
    """
    judged, files = [], tuple(files)
    usable = own_wheels(index, files)
    for file in files:
        try:
            _, version, _, wheel_tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        yanked = None if yanked_too else _yank_reason(file)
        has_hash = bool(file.sha256) or file in usable
        reason = _index_reason(file, index, platform, has_hash=has_hash) or yanked or _tag_reason(wheel_tags, platform)
        late = None if reason else _late_reason(file, index, before)
        day = file.upload_time[:10] if late and file.upload_time else None
        judged.append(JudgedWheel(file=file, version=version, unfit=reason or late, too_late=day))
    return judged


def _index_reason(file: IndexFile, index: Index, platform: Platform, *, has_hash: bool) -> str | None:
    if is_foreign(index, file):
        return "it is the public index's build, which this index only mirrors"
    if not has_hash:
        return "the index has no sha256 for it, but for other files"
    if file.requires_python and not _allows(file.requires_python, platform.python):
        return f"it requires Python {file.requires_python}, the cell has {platform.python}"
    return None


def _yank_reason(file: IndexFile) -> str | None:
    return None if file.yanked is None else f"it was yanked{f': {file.yanked}' if file.yanked else ''}"


def _late_reason(file: IndexFile, index: Index, before: str | None) -> str | None:
    if before and file.upload_time and file.upload_time[:10] >= before:
        return f"it was uploaded on {file.upload_time[:10]}, the recipe excludes files from {before} on"
    # The date does not apply to an index with pinned packages and without upload times.
    if before and not file.upload_time and index.name == DEFAULT:
        return f"the index has no upload time for it, the recipe excludes files from {before} on"
    return None


def _allows(requires_python: str, python: str) -> bool:
    try:
        specifier = SpecifierSet(requires_python)
    except InvalidSpecifier:
        return True
    # Like uv: a bound must hold for the first release of the minor version.
    return specifier.contains(f"{python}.0")


def _tag_reason(wheel_tags: frozenset[Tag], platform: Platform) -> str | None:
    fitting, pythons = _compatible(platform)
    if wheel_tags & fitting:
        return None
    cell_machine = machine(platform)
    on_machine = [tag for tag in wheel_tags if tag.platform == "any" or _machine_of(tag.platform) == cell_machine]
    if not on_machine:
        return f"it is for {_names(tag.platform for tag in wheel_tags)}, the cell is {cell_machine}"
    reasons = filter(None, (_python_reason(on_machine, pythons, platform), _libc_reason(on_machine, platform)))
    return "; ".join(reasons) or f"its tags are not compatible together: {_names(map(str, on_machine))}"


def _python_reason(on_machine: list[Tag], pythons: frozenset[tuple[str, str]], platform: Platform) -> str | None:
    if any((tag.interpreter, tag.abi) in pythons for tag in on_machine):
        return None
    cell = f"cp{platform.python.replace('.', '')}"
    return f"it is for {_names(f'{tag.interpreter}-{tag.abi}' for tag in on_machine)}, the cell has {cell}"


def _libc_reason(on_machine: list[Tag], platform: Platform) -> str | None:
    if all(tag.platform.startswith("musllinux") for tag in on_machine):
        return "it is for musl, the cell has glibc"
    minors = [int(match[1]) for tag in on_machine if (match := _MANYLINUX.fullmatch(tag.platform))]
    if len(minors) == len(on_machine) and min(minors) > int(platform.glibc.split(".")[1]):
        return f"it needs glibc 2.{min(minors)}, the cell has {platform.glibc}"
    return None


def _machine_of(name: str) -> str | None:
    match = _LINUX.fullmatch(name)
    return match[1] if match else None


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))

"""Why a file of an index cannot be taken for a cell, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.host.index_rows import DEFAULT
from builder.lock.uv_target import machine, tags
from builder.remote.index.index_view import is_foreign

if TYPE_CHECKING:
    from collections.abc import Iterable

    from packaging.tags import Tag
    from packaging.version import Version

    from builder.model.locks import Platform
    from builder.remote.index.listing import Index, IndexFile

_LINUX = re.compile(r"(?:many|musl)?linux(?:1|20[0-9]+|_[0-9]+_[0-9]+)?_(.+)")
_MANYLINUX = re.compile(r"manylinux_2_(\d+)_(.+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedWheel:
    """A wheel of an index: its version, and why it is unfit for the cell; None if it fits.

    `too_late` is the day (ISO 8601) on which it came, if nothing but the recipe's date speaks against it.
    """

    file: IndexFile
    version: Version
    unfit: str | None
    too_late: str | None = None


class _Compatibility:
    """What fits a cell: tags, and the Pythons and ABIs among them."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.tags = frozenset(tags(platform))
        self.pythons = frozenset((tag.interpreter, tag.abi) for tag in self.tags)


def judge(
    files: Iterable[IndexFile],
    index: Index,
    platform: Platform,
    *,
    before: str | None = None,
    yanked_too: bool = False,
) -> list[JudgedWheel]:
    """Return the wheels of a page with what speaks against each, whatever version is wanted.

    `before` is the cut-off date of the recipe. What was yanked may be taken where an exact version is asked for. Files
    that are no wheels are left out.
    """
    fits = _Compatibility(platform)
    found = []
    for file in files:
        try:
            _, version, _, own = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        yanked = None if yanked_too else _yanked(file)
        unfit = _index_says(file, index, platform) or yanked or _tags_say(own, fits)
        late = None if unfit else _came(file, index, before)
        came = file.upload_time[:10] if late and file.upload_time else None
        found.append(JudgedWheel(file=file, version=version, unfit=unfit or late, too_late=came))
    return found


def _index_says(file: IndexFile, index: Index, platform: Platform) -> str | None:
    if is_foreign(index, file):
        return "it is the public index's build, which this index only passes on"
    if file.sha256 is None:
        return "the index gives no sha256 for it"
    if file.requires_python and not _allows(file.requires_python, platform.python):
        return f"it wants Python {file.requires_python}, the cell has {platform.python}"
    return None


def _yanked(file: IndexFile) -> str | None:
    return None if file.yanked is None else f"it was yanked{f': {file.yanked}' if file.yanked else ''}"


def _came(file: IndexFile, index: Index, before: str | None) -> str | None:
    if before and file.upload_time and file.upload_time[:10] >= before:
        return f"it came on {file.upload_time[:10]}, the recipe takes what was released before {before}"
    # A date says nothing about an index that packages are tied to and that has no upload times.
    if before and not file.upload_time and index.name == DEFAULT:
        return f"the index does not say when it came, the recipe takes what was released before {before}"
    return None


def _allows(requires_python: str, python: str) -> bool:
    try:
        specifier = SpecifierSet(requires_python)
    except InvalidSpecifier:
        return True
    # As uv sees it: whatever holds for a minor version must hold for its first release.
    return specifier.contains(f"{python}.0")


def _tags_say(own: frozenset[Tag], fits: _Compatibility) -> str | None:
    if own & fits.tags:
        return None
    wanted = machine(fits.platform)
    here = [tag for tag in own if tag.platform == "any" or _machine_of(tag.platform) == wanted]
    if not here:
        return f"it is for {_names(tag.platform for tag in own)}, the cell is {wanted}"
    said = "; ".join(filter(None, (_python_says(here, fits), _library_says(here, fits.platform))))
    return said or f"its tags do not go together: {_names(map(str, here))}"


def _python_says(here: list[Tag], fits: _Compatibility) -> str | None:
    if any((tag.interpreter, tag.abi) in fits.pythons for tag in here):
        return None
    cell = f"cp{fits.platform.python.replace('.', '')}"
    return f"it is for {_names(f'{tag.interpreter}-{tag.abi}' for tag in here)}, the cell has {cell}"


def _library_says(here: list[Tag], platform: Platform) -> str | None:
    if all(tag.platform.startswith("musllinux") for tag in here):
        return "it is for musl, the cell has glibc"
    wanted = [int(found[1]) for tag in here if (found := _MANYLINUX.fullmatch(tag.platform))]
    if len(wanted) == len(here) and min(wanted) > int(platform.glibc.split(".")[1]):
        return f"it needs glibc 2.{min(wanted)}, the cell has {platform.glibc}"
    return None


def _machine_of(name: str) -> str | None:
    found = _LINUX.fullmatch(name)
    return found[1] if found else None


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))

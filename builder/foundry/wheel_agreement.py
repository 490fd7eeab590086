"""Compares a built wheel with the inputs that it should have been built from, and with another build of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.audit import wheel_reader
from builder.audit.byte_source import File, MalformedError
from builder.errors import IntegrityError
from builder.foundry.raw_wheel import content_of
from builder.foundry.wheel_bill import STATEMENT_FILE, stated_build
from builder.foundry.wheel_label import label_of
from builder.foundry.wheel_zip import source_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.builds import LockedBuild


def require_name(filename: str, build: LockedBuild) -> None:
    """Refuse a file name that is not that of a build's wheel.

    Raises:
        IntegrityError: it is one.
    """
    try:
        package, version, *_ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise IntegrityError(f"its file is not a wheel: {error}") from error
    if package != build.name or not str(version).endswith(label_of(build)):
        raise IntegrityError(f"its file is {filename}, which is not a wheel of this build")


def require_agreement(wheel: Path, build: LockedBuild) -> None:
    """Remove and refuse a wheel whose provenance contradicts a build or the wheel's own files.

    Raises:
        IntegrityError: it is one, or it cannot be read.
    """
    try:
        flaw = disagreement(wheel, build)
    except MalformedError as error:
        flaw = error.message
    if flaw:
        wheel.unlink()
        raise IntegrityError(flaw)


def disagreement(wheel: Path, build: LockedBuild) -> str | None:
    """Return how the provenance inside a wheel contradicts a build or the wheel's own files; None if it agrees.

    Raises:
        MalformedError: the wheel cannot be read.
    """
    stated = stated_build(content_of(wheel, STATEMENT_FILE) or b"")
    if stated is None:
        return "the wheel has no provenance of jbuild's builds"
    if stated.fingerprint != build.fingerprint:
        return f"the provenance inside the wheel states other inputs: {stated.fingerprint[:12]}"
    members, flaws = wheel_reader.listing(wheel)
    if flaws:
        return f"{flaws[0][0]} {flaws[0][1]}"
    data, by_name = File(wheel), {member.name: member for member in members}
    for name, sha256 in stated.files.items():
        if name not in by_name:
            return f"the wheel lacks {name}, which its provenance names"
        digest = hashlib.sha256()
        for block in source_blocks(wheel_reader.source(data, by_name[name])):
            digest.update(block)
        if digest.hexdigest() != sha256:
            return f"{name} is another file than its provenance states"
    return None


def differing_files(one: Path, two: Path) -> list[str]:
    """Return the names of the files that two wheels have different or alone; none if only their compression differs.

    RECORD is left out, since it differs whenever another file does.

    Raises:
        MalformedError: a wheel cannot be read.
    """
    ours, theirs = _contents(one), _contents(two)
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return [name for name in names if not name.endswith(".dist-info/RECORD")]


def _contents(wheel: Path) -> dict[str, tuple[int, int]]:
    members, flaws = wheel_reader.listing(wheel)
    if flaws:
        raise MalformedError("{} {}".format(*flaws[0]), where=wheel.name)
    return {member.name: (member.crc, member.size) for member in members}

"""Reads which cell a bundle's folder belongs to, without a check of its files."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, cast

from builder.errors import JbuildError
from builder.host import records
from builder.model.bundles import BUNDLE_FILE, PARTS_FILE, PARTS_FOLDER, UNFINISHED_FILE, Bundle
from builder.publish.bundle.bundle_records import parse_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.images import Image

_FLAWS = (OSError, ValueError, KeyError, TypeError, RecursionError, tarfile.TarError)


def cell_of_bundle(folder: Path) -> tuple[str, str] | None:
    """Return the recipe and the cell of a bundle, or of one whose writing has not ended; None for other folders."""
    for read in (_unfinished, read_bundle):
        try:
            record = read(folder)
        except _FLAWS:
            continue
        if record:
            return (record["recipe"], record["cell"]) if isinstance(record, dict) else (record.recipe, record.cell)
    return None


def read_bundle(folder: Path) -> Bundle | None:
    """Return the record of a bundle, split or not; None if the folder is not one."""
    try:
        return cast("Bundle", records.from_json(json.loads(_record_content(folder)), Bundle))
    except _FLAWS:
        return None


def unverified_image(folder: Path) -> Image | None:
    """Return the image that a bundle's record describes; None if the record is not valid.

    Nobody has compared the bundle's files with the record yet, which takes minutes.
    """
    try:
        content = _record_content(folder)
        return parse_bundle(content, str(folder)).image
    except (JbuildError, *_FLAWS):
        # The verification names the flaw.
        return None


def _record_content(folder: Path) -> bytes:
    return _record_in_parts(folder) if (folder / PARTS_FILE).is_file() else (folder / BUNDLE_FILE).read_bytes()


def _record_in_parts(folder: Path) -> bytes:
    """Return the first member of the archive, which may span several parts."""
    paths = sorted((folder / PARTS_FOLDER).iterdir())
    member = tarfile.TarInfo.frombuf(_start_of(paths, tarfile.BLOCKSIZE), "utf-8", "strict")
    if member.name != BUNDLE_FILE:
        raise ValueError(f"the archive does not begin with {BUNDLE_FILE}")
    return _start_of(paths, tarfile.BLOCKSIZE + member.size)[tarfile.BLOCKSIZE :]


def _start_of(paths: list[Path], size: int) -> bytes:
    """Return the first bytes of consecutive files."""
    content = b""
    for path in paths:
        with path.open("rb") as file:
            content += file.read(size - len(content))
        if len(content) == size:
            break
    return content


def _unfinished(folder: Path) -> dict[str, str]:
    body = json.loads((folder / UNFINISHED_FILE).read_bytes())
    return {"recipe": str(body["recipe"]), "cell": str(body["cell"])}

"""The file SHA256SUMS of a bundle: it also covers the bundle's record and the files beside the parts."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.host.files import sha256_of_rest
from builder.model.bundles import SUMS_FILE, BundleFile
from builder.publish.bundle.bundle_records import LONGEST_RECORD, is_plain
from builder.publish.bundle.file_checks import FileFlawError, open_plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")


def read_checksums(folder: Path) -> Mapping[str, str]:
    """Return the sha256 of files of a bundle by their paths; empty if the bundle has no such list.

    Raises:
        IntegrityError: the list is damaged.
    """
    path = folder / SUMS_FILE
    if not path.exists() and not path.is_symlink():
        return {}
    try:
        size = path.lstat().st_size
        with open_plain(folder, BundleFile(path=SUMS_FILE, size=min(size, LONGEST_RECORD), sha256="")) as stream:
            rows = stream.read().decode().removesuffix("\n").split("\n")
    except (FileFlawError, ValueError) as error:
        raise _damaged(f"it {error}" if isinstance(error, FileFlawError) else "it is not text", folder) from error
    sums = {}
    for number, row in enumerate(rows, start=1):
        match = _LINE.fullmatch(row)
        if match is None or not is_plain(match[2]) or match[2] in sums:
            raise _damaged(f"its line {number} is not a sha256 and a file", folder)
        sums[match[2]] = match[1]
    return sums


def check_record(sums: Mapping[str, str], name: str, content: bytes, folder: Path) -> None:
    """Compare the bundle's record with the list.

    Raises:
        IntegrityError: they differ.
    """
    if sums.get(name, actual := hashlib.sha256(content).hexdigest()) != actual:
        raise _differs(name, folder)


def check_others(sums: Mapping[str, str], verified: Mapping[str, str], folder: Path) -> None:
    """Compare the list with the verified files, by their sha256, and with the files that it lists besides.

    Raises:
        IntegrityError: they differ, or a file is missing.
    """
    for path, expected in sums.items():
        if (verified.get(path) or _sha256_of(folder, path)) != expected:
            raise _differs(path, folder)


def _sha256_of(folder: Path, path: str) -> str:
    try:
        size = (folder / path).lstat().st_size
        with open_plain(folder, BundleFile(path=path, size=size, sha256="")) as stream:
            return sha256_of_rest(stream)
    except (FileNotFoundError, NotADirectoryError, FileFlawError) as error:
        flaw = error if isinstance(error, FileFlawError) else f"is missing, which {SUMS_FILE} lists"
        raise IntegrityError(f"{path} {flaw}", where=str(folder), hint="copy it again") from error


def _differs(path: str, folder: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged, or {SUMS_FILE} is: its sha256 is another one there",
        where=str(folder),
        hint="copy both files again, then run the same command",
    )


def _damaged(flaw: str, folder: Path) -> IntegrityError:
    return IntegrityError(
        f"{SUMS_FILE} is damaged: {flaw}", where=str(folder), hint="copy it again, then run the same command"
    )

"""Compares the files of a bundle with their sizes and sha256, with all processors; one error names all that differ."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from builder.errors import IntegrityError
from builder.host.concurrency import Progress, TaskGroup
from builder.host.units import size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.host.console import Console
    from builder.model.bundles import BundleFile

_BLOCK = 1 << 20
_MOST_SHOWN = 5
_SHORT = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """A file to check: its name in messages, its record, and a function that opens it.

    The function raises `FileFlawError` for a file that cannot be right.
    """

    name: str
    file: BundleFile
    open: Callable[[], IO[bytes]]


class FileFlawError(Exception):
    """A flaw of a file, in words that follow its name."""


def check_files(checks: Sequence[FileCheck], noun: str, folder: Path, console: Console) -> None:
    """Read files and compare them with their records; `noun` names several of them.

    Raises:
        IntegrityError: some are missing, damaged, too short or exchanged.
    """
    names = {check.file.sha256: check.name for check in checks}
    total = sum(check.file.size for check in checks)
    # The largest first, so that no processor is left with a long one at the end.
    order = sorted(range(len(checks)), key=lambda index: -checks[index].file.size)
    with (
        console.task(f"verifying the bundle's {noun}", float(total), unit="B") as task,
        TaskGroup(os.cpu_count() or 2) as group,
    ):
        progress = Progress(token=group.token, on_bytes=task.advance)
        flaws = group.gather(lambda index: _flaw(checks[index], names, progress), order)
    wrong = {}
    for index, flaw in zip(order, flaws, strict=True):
        if isinstance(flaw, Exception):
            raise flaw
        if flaw:
            wrong[index] = f"{checks[index].name} {flaw}"
    if wrong:
        raise _refusal([wrong[index] for index in sorted(wrong)], f"{len(wrong)} of {len(checks)} {noun}", folder)
    console.say(f"verified {len(checks)} {noun}, {size_of(total)}")


def open_plain(folder: Path, file: BundleFile) -> IO[bytes]:
    """Open a regular file below a folder, without following links.

    Raises:
        FileFlawError: it is missing, of another kind or of another size.
    """
    path = folder
    try:
        for step in file.path.split("/"):
            path /= step
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode):
                raise FileFlawError("is a link" if path == folder / file.path else f"is in {step}, a link")
        if not stat.S_ISREG(state.st_mode):
            raise FileFlawError("is not a regular file")
        if state.st_size < file.size:
            raise FileFlawError(f"is incomplete ({state.st_size:,} of {file.size:,} bytes)")
        if state.st_size > file.size:
            raise FileFlawError(f"is too long ({state.st_size:,} instead of {file.size:,} bytes)")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileFlawError("is missing") from error
    except OSError as error:
        raise FileFlawError(f"cannot be read: {error.strerror}") from error


def _flaw(check: FileCheck, names: Mapping[str, str], progress: Progress) -> str | None:
    try:
        with check.open() as stream:
            digest = hashlib.sha256()
            while block := stream.read(_BLOCK):
                digest.update(block)
                progress.advance(len(block))
    except FileFlawError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    actual, expected = digest.hexdigest(), check.file.sha256
    if actual == expected:
        return None
    if other := names.get(actual):
        return f"has the content of {other}"
    return f"is damaged (sha256 {actual[:_SHORT]}…, expected {expected[:_SHORT]}…)"


def _refusal(flaws: Sequence[str], count: str, folder: Path) -> IntegrityError:
    if len(flaws) == 1:
        return IntegrityError(flaws[0], where=str(folder), hint="copy it again, then run the same command")
    listed = "; ".join(flaws[:_MOST_SHOWN])
    rest = f"; and {len(flaws) - _MOST_SHOWN} more" if len(flaws) > _MOST_SHOWN else ""
    return IntegrityError(
        f"{count} are wrong: {listed}{rest}",
        where=str(folder),
        hint="copy them again, then run the same command",
    )

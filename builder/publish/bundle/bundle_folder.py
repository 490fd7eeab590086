"""Writes a bundle's folder: files that are right stay, and the folder counts as unfinished until the last one."""

from __future__ import annotations

import errno
import json
import shutil
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from builder.errors import DiskError, UsageError
from builder.host.files import atomic_file, disk_errors, is_left_over, set_mode, write_text
from builder.model.bundles import (
    BUNDLE_FILE,
    EVIDENCE_FOLDER,
    PARTS_FILE,
    PARTS_FOLDER,
    PROJECT_FOLDER,
    SUMS_FILE,
    UNFINISHED_FILE,
    VERDICT_FOLDER,
)
from builder.publish.bundle.bundle_reading import cell_of_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from builder.model.bundles import Bundle

_LAST = (BUNDLE_FILE, PARTS_FILE)
_FOLDERS = ("blobs", EVIDENCE_FOLDER, "jbuild", PROJECT_FOLDER, PARTS_FOLDER, VERDICT_FOLDER)
_FILES = ("oci-layout", "index.json", "manifest.json", "README.md", "load.sh", SUMS_FILE, UNFINISHED_FILE, *_LAST)


def prepare(folder: Path, bundle: Bundle, paths: Sequence[str], size: int) -> None:
    """Make a bundle's folder ready for files with these paths and `size` bytes; mark it as unfinished.

    Files of an older bundle of the same cell go, except verdicts.

    Raises:
        UsageError: the folder holds something else.
        DiskError: it cannot be written, or the disk has too little space.
    """
    with disk_errors(folder):
        check_folder(folder, bundle.recipe, bundle.cell)
        _check_space(folder, size)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / UNFINISHED_FILE, json.dumps({"recipe": bundle.recipe, "cell": bundle.cell}) + "\n")
        for name in _LAST:
            (folder / name).unlink(missing_ok=True)
        _remove_others(folder, {*paths, UNFINISHED_FILE})


def finish(folder: Path, last: str, content: bytes) -> None:
    """Write the file that makes a folder a bundle.

    Raises:
        DiskError: it cannot be written.
    """
    write_text(folder / last, content.decode())
    with disk_errors(folder):
        (folder / UNFINISHED_FILE).unlink()


def write_unless_same(path: Path, size: int, blocks: Iterator[bytes], *, mode: int = 0o644) -> None:
    """Write a file of `size` bytes, unless it has the same content already: then the content is only read.

    Raises:
        DiskError: it cannot be written.
    """
    with _size_limit(path), disk_errors(path):
        before = _opened(path, size)
        if before is None:
            _write(path, mode, blocks)
            return
        with before:
            same = 0
            for block in blocks:
                if before.read(len(block)) != block:
                    before.seek(0)
                    _write(path, mode, _chained(before, same, block, blocks))
                    return
                same += len(block)
        set_mode(path, mode)


def _chained(before: IO[bytes], same: int, block: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the beginning of a file that is right, then the new content."""
    while same:
        start = before.read(min(same, 1 << 20))
        same -= len(start)
        yield start
    yield block
    yield from rest


def _opened(path: Path, size: int) -> IO[bytes] | None:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
        return None
    return path.open("rb")


def _write(path: Path, mode: int, blocks: Iterable[bytes]) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for block in blocks:
            file.write(block)
    set_mode(path, mode)


@contextmanager
def _size_limit(path: Path) -> Iterator[None]:
    """Explain the limit of file systems such as FAT32."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        hint = "split the bundle: `--split 4G`"
        raise DiskError("the file is too large for this file system", where=str(path), hint=hint) from error


def check_folder(folder: Path, recipe: str, cell: str) -> None:
    """Refuse a folder that holds anything but a bundle of this cell.

    Raises:
        UsageError: it does, or the path is not a folder's.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError("not a folder", where=str(folder), hint="name a new folder with --output")
    names = {path.name for path in folder.iterdir() if not is_left_over(path.name)} if folder.exists() else set()
    names.discard(VERDICT_FOLDER)
    if not names:
        return
    other = next(iter(sorted(names - {*_FOLDERS, *_FILES})), None)
    owner = cell_of_bundle(folder)
    hint = "name a new folder with --output"
    if other or owner is None:
        raise UsageError(f"the folder has other files already: {other or min(names)}", where=str(folder), hint=hint)
    if owner != (recipe, cell):
        name = "/".join(owner)
        raise UsageError(f"the folder holds the bundle of another cell: {name}", where=str(folder), hint=hint)


def _check_space(folder: Path, size: int) -> None:
    """Refuse a disk that is too small; files of an earlier run are written over or stay."""
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(above).free
    if size > present + free:
        raise DiskError(
            f"the bundle needs {(size - present) / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
            where=str(folder),
            hint="free some space, or name a folder on another disk with --output",
        )


def _remove_others(folder: Path, paths: set[str]) -> None:
    """Remove what is neither one of these files nor a verdict."""
    for path in sorted(folder.rglob("*"), reverse=True):
        inside = path.relative_to(folder)
        if inside.parts[0] == VERDICT_FOLDER or inside.as_posix() in paths:
            continue
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        else:
            path.unlink()

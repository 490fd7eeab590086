"""Model files by sha256: each stored once, whichever models, cells and recipes use it."""

from __future__ import annotations

import fcntl
import hashlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from filelock import FileLock, Timeout

from builder import records
from builder.workspace import mark_used, write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.models.model import ModelFile

BLOCK = 1 << 20
# `FICLONE` of linux/fs.h: share the blocks of another file, on file systems that can.
_CLONE = 0x40049409
_LOOK_AGAIN_S = 0.5
# Files that were written this recently (ns) may be written again within the same tick of the file system's clock.
_SETTLED_NS = 20_000_000


def blob(models: Path, sha256: str) -> Path:
    """Return where the file with a content lies."""
    return models / "sha256" / sha256[:2] / sha256


def has(models: Path, file: ModelFile) -> bool:
    """Tell whether a file is in the store; a blob that a crash cut short is not."""
    try:
        return blob(models, file.sha256).stat().st_size == file.size
    except FileNotFoundError:
        return False


def use(models: Path, file: ModelFile) -> bool:
    """Tell whether a file is in the store, and note that it is used."""
    return has(models, file) and mark_used(blob(models, file.sha256))


@contextmanager
def partial(models: Path, key: str, going_on: Callable[[], object]) -> Iterator[Path]:
    """Give the file in which content is gathered, held against other threads and processes.

    `key` names the content. It is left behind on failure, for the next run to go on from. `going_on` is called
    while waiting; it may raise to end the wait.
    """
    path = models / "partial" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{key}.lock"))
    while True:
        going_on()
        try:
            lock.acquire(timeout=_LOOK_AGAIN_S)
            break
        except Timeout:
            continue
    try:
        yield path
    finally:
        lock.release()


def adopt(models: Path, gathered: Path, sha256: str) -> Path:
    """Move a gathered, verified file into the store."""
    target = blob(models, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    gathered.chmod(0o644)
    return gathered.replace(target)


def copy_and_hash(source: IO[bytes], target: Path, on_bytes: Callable[[float], None]) -> str:
    """Copy a file, sharing its blocks where that is possible, and return the sha256 of what was written.

    Never a hard link: the copy's mode and times will be changed.
    """
    with target.open("w+b") as copy:
        if _clone(source, copy):
            return digest_of(copy, on_bytes).hexdigest()
        digest = hashlib.sha256()
        while block := source.read(BLOCK):
            digest.update(block)
            copy.write(block)
            on_bytes(len(block))
        return digest.hexdigest()


def digest_of(file: IO[bytes], on_bytes: Callable[[float], None]) -> hashlib._Hash:
    """Return the sha256 of the rest of a file, to be added to."""
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
        on_bytes(len(block))
    return digest


def _clone(source: IO[bytes], copy: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(copy.fileno(), _CLONE, source.fileno())
    except OSError:
        return False
    return True


def key_of(path: Path, state: os.stat_result) -> str:
    """Return what stands for a file's content as long as nobody writes to it."""
    times = (state.st_mtime_ns, state.st_ctime_ns)
    return records.fingerprint(str(path.absolute()), state.st_size, times, state.st_ino)


def remembered(models: Path, key: str) -> str | None:
    """Return the sha256 that was found for a key, or None."""
    try:
        text = _memory(models, key).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return text if len(text) == hashlib.sha256().digest_size * 2 else None


def remember(models: Path, key: str, sha256: str) -> None:
    """Keep the sha256 of a key for the next run.

    Raises:
        DiskError: it cannot be written.
    """
    write_text(_memory(models, key), sha256 + "\n")


def is_settled(state: os.stat_result, now_ns: int) -> bool:
    """Tell whether a later change of the file is sure to show in its times."""
    return now_ns - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS


def _memory(models: Path, key: str) -> Path:
    return models / "known" / key[:2] / key

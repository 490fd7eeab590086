"""Model files by sha256, each stored once for all models, cells and recipes."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from builder.host import records
from builder.host.file_locks import file_lock
from builder.host.files import mark_used, write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.model.model_files import ModelFile

# Within this time (ns) a second write may have the same time stamp, since file systems' clocks are coarse.
_SETTLED_NS = 20_000_000
_BLOCK = 1 << 20


def blob(models: Path, sha256: str) -> Path:
    """Return the path of the file with a sha256."""
    return models / "sha256" / sha256[:2] / sha256


def has(models: Path, file: ModelFile) -> bool:
    """Return whether a file is in the store with its full size, which a crash may have cut."""
    try:
        return blob(models, file.sha256).stat().st_size == file.size
    except FileNotFoundError:
        return False


def use(models: Path, file: ModelFile) -> bool:
    """Return whether a file is in the store, and mark it as used."""
    return has(models, file) and mark_used(blob(models, file.sha256))


@contextmanager
def partial(models: Path, key: str, check: Callable[[], object]) -> Iterator[Path]:
    """Yield the path of the partial file for a `key`, locked against other threads and processes.

    After a failure the file stays, and the next run resumes it. `check` is called while waiting; it may raise to end
    the wait.
    """
    path = models / "partial" / key
    with file_lock(path.with_name(f"{key}.lock"), check):
        yield path


def adopt(models: Path, verified: Path, sha256: str) -> Path:
    """Move a verified file into the store."""
    target = blob(models, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    verified.chmod(0o644)
    return verified.replace(target)


def digest_of(file: IO[bytes], on_bytes: Callable[[float], None]) -> hashlib._Hash:
    """Return the sha256 of the rest of a file, to be added to."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
        on_bytes(len(block))
    return digest


def key_of(path: Path, state: os.stat_result) -> str:
    """Return a key for a file's content, from its path, size, times and inode."""
    times = (state.st_mtime_ns, state.st_ctime_ns)
    return records.fingerprint(str(path.absolute()), state.st_size, times, state.st_ino)


def remembered(models: Path, key: str) -> str | None:
    """Return the recorded sha256 of a key, or None."""
    try:
        text = _memory(models, key).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return text if len(text) == hashlib.sha256().digest_size * 2 else None


def remember(models: Path, key: str, sha256: str) -> None:
    """Record the sha256 of a key for the next run.

    Raises:
        DiskError: it cannot be written.
    """
    write_text(_memory(models, key), sha256 + "\n")


def is_settled(state: os.stat_result, now_ns: int) -> bool:
    """Return whether a later change of the file would certainly change its times."""
    return now_ns - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS


def _memory(models: Path, key: str) -> Path:
    return models / "known" / key[:2] / key

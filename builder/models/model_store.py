"""Model files by sha256: each stored once, whichever models, cells and recipes use it."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from builder.host import records
from builder.host.files import mark_used, write_text
from builder.remote.download import BLOCK, file_lock

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.model.model_files import ModelFile

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
def partial(models: Path, key: str, check: Callable[[], object]) -> Iterator[Path]:
    """Give the file in which content is gathered, held against other threads and processes.

    `key` names the content. It is left behind on failure, for the next run to go on from. `check` is called while
    waiting; it may raise to end the wait.
    """
    path = models / "partial" / key
    with file_lock(path.with_name(f"{key}.lock"), check):
        yield path


def adopt(models: Path, gathered: Path, sha256: str) -> Path:
    """Move a gathered, verified file into the store."""
    target = blob(models, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    gathered.chmod(0o644)
    return gathered.replace(target)


def digest_of(file: IO[bytes], on_bytes: Callable[[float], None]) -> hashlib._Hash:
    """Return the sha256 of the rest of a file, to be added to."""
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
        on_bytes(len(block))
    return digest


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

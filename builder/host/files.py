"""Files: written aside and renamed, hashed, marked as used; failures of the disk say what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from builder.errors import DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator


_HASH_BLOCK = 1 << 20


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn failures of the disk below into errors that say what to do.

    Raises:
        DiskError: no space, quota or permission.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                "the disk is full",
                where=str(path),
                hint=f"free some space (now {_free(path)} free) and run the same command again: it goes on from here",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise DiskError(
                f"cannot write: {error.strerror}",
                where=str(error.filename or path),
                hint="check the folder's owner and that its disk may be written (JBUILD_CACHE names another cache)",
            ) from error
        raise


def _free(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e6:.0f} MB"


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that nobody ever reads half of it.

    Raises:
        DiskError: the file cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file aside and rename it, so that nobody ever reads half of it.

    Raises:
        DiskError: the file cannot be written.
    """
    with disk_errors(path), atomic_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`, renamed to it on success and removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(number)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temp_file(folder: Path) -> Iterator[Path]:
    """Give a temporary file in a folder, for what is named by its content; it is removed unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=".unnamed.", dir=folder)
    os.close(number)
    temporary = Path(name)
    try:
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, which becomes `path` on success and is removed on failure.

    Where another process was faster, its folder stays: both hold the same content by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move(path: Path, target: Path) -> None:
    """Rename a file; where the target is on another disk, copy it there, aside first.

    Raises:
        OSError: it cannot be moved.
    """
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with temp_file(target.parent) as temporary:
            shutil.copyfile(path, temporary)
            temporary.replace(target)
        path.unlink()


def mark_used(path: Path) -> bool:
    """Note that a file or folder of the cache is in use: its ctime becomes now, which is its age to a prune.

    Its other times stay, for they end up in images. Returns False if it is not there.
    """
    try:
        state = path.lstat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        # Of another user, or on a disk that is only read: it can be used all the same.
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise
    return True


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: IO[bytes]) -> str:
    """Return the sha256 of what is left to be read of an open file, in hex."""
    digest = hashlib.sha256()
    while block := file.read(_HASH_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def secret_beside(path: Path, name: str) -> Path:
    """Return where a secret for the program of a file lies: in a folder beside it that only its owner enters."""
    return path.parent / "secrets" / name


def write_secret(path: Path, text: str) -> bool:
    """Write a secret that a container's user is to read, unless there is one already; return whether it was written.

    Engines mount files as they are, so everybody may read this one; its folder keeps everybody but its owner away.

    Raises:
        DiskError: the file cannot be written.
    """
    if path.exists():
        return False
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(path, text)
    return True

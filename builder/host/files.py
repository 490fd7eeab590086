"""Files: atomic writes, hashes, times of use, and errors of the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from builder.errors import DiskError
from builder.host import owner

if TYPE_CHECKING:
    from collections.abc import Iterator

_HASH_BLOCK = 1 << 20
# A temporary name has the name of the file to be made, and the process that makes it.
_TEMPORARY = re.compile(rf"\..+\.jbuild-(?P<owner>{owner.PATTERN})-\w+")
_LONGEST_NAME = 120


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk into `DiskError`.

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
                hint=f"free some space (now {_free(path)} free) and run the same command again: it resumes from here",
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
    """Write a text file atomically.

    Raises:
        DiskError: the file cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: readers never see half of it.

    Raises:
        DiskError: the file cannot be written.
    """
    with disk_errors(path), atomic_file(path) as temporary:
        temporary.write_bytes(content)


def check_writable(folder: Path, message: str, *, where: Path, hint: str) -> None:
    """Create a folder and make sure that files can be written in it.

    Raises:
        DiskError: they cannot; its text begins with `message`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise DiskError(f"{message}: {error.strerror}", where=str(where), hint=hint) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, renamed to it on success and removed on failure."""
    with temp_file(path.parent, path.name) as temporary:
        yield temporary
        set_mode(temporary, 0o644)
        temporary.replace(path)


@contextmanager
def temp_file(folder: Path, name: str = "unnamed") -> Iterator[Path]:
    """Yield a temporary file in a folder, removed at the end unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    number, path = tempfile.mkstemp(prefix=_prefix(name), dir=folder)
    os.close(number)
    temporary = Path(path)
    try:
        set_mode(temporary, 0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file; file systems without modes, such as FAT, refuse that."""
    with suppress(PermissionError):
        path.chmod(mode)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, renamed to it on success and removed on failure.

    If another process was faster, its folder stays: both have the same content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temp_folder(path.parent, path.name) as temporary:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


@contextmanager
def temp_folder(folder: Path, name: str = "unnamed") -> Iterator[Path]:
    """Yield a temporary folder in a folder, removed at the end unless it was renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(name), dir=folder))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, for this user only, removed at the end."""
    with temp_folder(Path(tempfile.gettempdir()), name) as folder:
        yield folder


def temporary_name(name: str) -> str:
    """Return a new temporary name for something to be made or removed under a name."""
    return f"{_prefix(name)}{os.urandom(4).hex()}"


def is_left_over(name: str) -> bool:
    """Return whether this is the name of a temporary file or folder of a process of this user that has ended."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and owner.has_ended(match["owner"])


def _prefix(name: str) -> str:
    return f".{name[:_LONGEST_NAME]}.jbuild-{owner.own_word()}-"


def move(path: Path, target: Path) -> None:
    """Move a file atomically, also to another disk.

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
    """Set the ctime of a file or folder of the cache to now: a prune takes it as the time of its last use.

    The other times stay, since they end up in images. Returns False if the path does not exist.
    """
    try:
        state = path.lstat()
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        # A file of another user or on a read-only disk can be used all the same.
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise
    return True


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: IO[bytes]) -> str:
    """Return the sha256 of the rest of an open file, in hex."""
    digest = hashlib.sha256()
    while block := file.read(_HASH_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def copy_hashed(source: IO[bytes], target: Path) -> str:
    """Copy the rest of an open file, over an earlier target, and return its sha256, in hex."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while block := source.read(_HASH_BLOCK):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def secret_beside(path: Path, name: str) -> Path:
    """Return the file of a secret, in a folder beside `path` that only its owner can enter."""
    return path.parent / "secrets" / name


def write_secret(path: Path, text: str) -> bool:
    """Write a secret for a container's user, unless there is one already; return whether it was written.

    Engines mount files as they are, so everybody may read the file; its folder admits its owner only.

    Raises:
        DiskError: the file cannot be written.
    """
    if path.exists():
        return False
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(path, text)
    return True

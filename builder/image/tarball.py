"""A folder as a tar stream that is the same on every machine: sorted, owned by root, one time for all."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import TYPE_CHECKING

from builder.wheels.tree import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Files are handed on in blocks of this many bytes, small ones together.
_BLOCK = 1 << 20


def stream(folder: Path) -> Iterator[bytes]:
    """Yield the tar of what lies in a folder, without the folder itself, in blocks of about a megabyte.

    Modes are those of the files; hard links become files of their own.

    Raises:
        OSError: a file cannot be read, or changed its size meanwhile.
        ValueError: it holds what an image's layer cannot: a device, a pipe, a socket.
    """
    waiting = bytearray()
    for piece in _pieces(str(folder), ""):
        if len(piece) >= _BLOCK:
            if waiting:
                yield bytes(waiting)
                waiting.clear()
            yield piece
            continue
        waiting += piece
        if len(waiting) >= _BLOCK:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting) + bytes(2 * tarfile.BLOCKSIZE)


def size_of(folder: Path) -> int:
    """Return about how many bytes the files of a folder hold, to show progress by."""
    return sum(os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(folder) for name in names)  # noqa: PTH118


def _pieces(root: str, inside: str) -> Iterator[bytes]:
    # Plain strings and scandir: a CUDA stack has 100,000 files.
    with os.scandir(f"{root}/{inside}") as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        name = f"{inside}{entry.name}"
        state = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(state.st_mode):
            yield _header(name, tarfile.DIRTYPE, state.st_mode)
            yield from _pieces(root, f"{name}/")
        elif stat.S_ISLNK(state.st_mode):
            yield _header(name, tarfile.SYMTYPE, 0o777, target=os.readlink(entry.path))  # noqa: PTH115
        elif stat.S_ISREG(state.st_mode):
            yield _header(name, tarfile.REGTYPE, state.st_mode, size=state.st_size)
            yield from _content(entry.path, state.st_size)
        else:
            raise ValueError(f"/{name} is neither a file nor a folder nor a symbolic link")


def _header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.linkname, entry.mtime = kind, size, target, EPOCH
    entry.mode = mode & 0o7777
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(path: str, size: int) -> Iterator[bytes]:
    left = size
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # as above
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise OSError(f"{path} became shorter while it was read")
            left -= len(block)
            yield block
        if file.read(1):
            raise OSError(f"{path} became longer while it was read")
    yield bytes(-size % tarfile.BLOCKSIZE)

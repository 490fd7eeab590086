"""A folder as a tar stream that is the same on every machine: sorted, owned by root, one time for all."""

from __future__ import annotations

import os
import stat
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.wheels.tree import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# Files are handed on in blocks of this many bytes, small ones together.
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file: where it is read from, and its size in bytes."""

    path: str
    size: int


def stream(folder: Path) -> Iterator[bytes]:
    """Yield the tar of what lies in a folder, without the folder itself, in blocks of about a megabyte.

    Modes are those of the files; hard links become files of their own.

    Raises:
        OSError: a file cannot be read, or changed its size meanwhile.
        ValueError: it holds what an image's layer cannot: a device, a pipe, a socket.
    """
    return blocks(parts(folder))


def parts(folder: Path, elsewhere: Mapping[str, Path] | None = None) -> Iterator[bytes | Content]:
    """Yield the tar of what lies in a folder: literal bytes, and the contents of files unread.

    `elsewhere` tells by path in the tar where else a file's content lies.

    Raises:
        OSError: a folder cannot be read.
        ValueError: as `stream` does.
    """
    yield from _entries(str(folder), "", elsewhere or {})
    yield bytes(2 * tarfile.BLOCKSIZE)


def blocks(content: Iterable[bytes | Content]) -> Iterator[bytes]:
    """Yield the bytes of a tar's parts in blocks of about a megabyte.

    Raises:
        OSError: a file cannot be read, or is not of its size any more.
    """
    waiting = bytearray()
    for piece in _read(content):
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
    if waiting:
        yield bytes(waiting)


def size_of(folder: Path) -> int:
    """Return about how many bytes the files of a folder hold, to show progress by."""
    return sum(os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(folder) for name in names)  # noqa: PTH118


def _entries(root: str, inside: str, elsewhere: Mapping[str, Path]) -> Iterator[bytes | Content]:
    # Plain strings and scandir: a CUDA stack has 100,000 files.
    with os.scandir(f"{root}/{inside}") as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        name = f"{inside}{entry.name}"
        state = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(state.st_mode):
            yield _header(name, tarfile.DIRTYPE, state.st_mode)
            yield from _entries(root, f"{name}/", elsewhere)
        elif stat.S_ISLNK(state.st_mode):
            yield _header(name, tarfile.SYMTYPE, 0o777, target=os.readlink(entry.path))  # noqa: PTH115
        elif stat.S_ISREG(state.st_mode):
            yield _header(name, tarfile.REGTYPE, state.st_mode, size=state.st_size)
            yield Content(str(elsewhere.get(name, entry.path)), state.st_size)
            yield bytes(-state.st_size % tarfile.BLOCKSIZE)
        else:
            raise ValueError(f"/{name} is neither a file nor a folder nor a symbolic link")


def _header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.linkname, entry.mtime = kind, size, target, EPOCH
    entry.mode = mode & 0o7777
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _read(content: Iterable[bytes | Content]) -> Iterator[bytes]:
    for part in content:
        if isinstance(part, bytes):
            yield part
        else:
            yield from _content(part.path, part.size)


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

"""A folder as a tar stream that is the same on every machine: sorted, owned by root, one time for all."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.image.wheels.tree import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# Files are handed on in blocks of this many bytes, small ones together.
_BLOCK = 1 << 20
# What the fields of a usual header hold: bytes of a name, and a size in eleven octal digits.
_LONGEST = tarfile.LENGTH_NAME
_LARGEST = 8**11 - 1
# Names of user and group, device numbers, the prefix and the rest of the block: all empty.
_NOBODY = bytes(32 + 32 + 8 + 8 + 155 + 12)


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file: where it is read from, its size in bytes, and its sha256, if that is to be checked."""

    path: str
    size: int
    sha256: str | None = None


class ChangedError(Exception):
    """A file is not what its sha256 says; the path is the argument."""


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

    `elsewhere` tells by path in the tar where else a file's content lies, as long as it does, under its sha256.

    Raises:
        OSError: a folder cannot be read.
        ValueError: as `stream` does.
    """
    yield from _entries(str(folder), elsewhere or {})
    yield bytes(2 * tarfile.BLOCKSIZE)


def blocks(content: Iterable[bytes | Content]) -> Iterator[bytes]:
    """Yield the bytes of a tar's parts in blocks of about a megabyte.

    Raises:
        OSError: a file cannot be read, or is not of its size any more.
        ChangedError: one is not what its sha256 says.
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


def _entries(root: str, elsewhere: Mapping[str, Path]) -> Iterator[bytes | Content]:
    # Plain strings, scandir and no recursion: a CUDA stack has 100,000 files.
    waiting = _listed(root, "")
    while waiting:
        name, entry = waiting.pop()
        state = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(state.st_mode):
            yield header(f"{name}/", tarfile.DIRTYPE, state.st_mode)
            waiting += _listed(root, f"{name}/")
        elif stat.S_ISLNK(state.st_mode):
            yield header(name, tarfile.SYMTYPE, 0o777, target=os.readlink(entry.path))  # noqa: PTH115
        elif stat.S_ISREG(state.st_mode):
            yield header(name, tarfile.REGTYPE, state.st_mode, size=state.st_size)
            yield _content_of(entry, state.st_size, elsewhere.get(name))
            yield bytes(-state.st_size % tarfile.BLOCKSIZE)
        else:
            raise ValueError(f"/{name} is neither a file nor a folder nor a symbolic link")


def _content_of(entry: os.DirEntry[str], size: int, elsewhere: Path | None) -> Content:
    if elsewhere is None:
        return Content(entry.path, size)
    return Content(str(elsewhere) if elsewhere.is_file() else entry.path, size, elsewhere.name)


def _listed(root: str, inside: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return what lies in a folder, by the path in the tar, the last first."""
    with os.scandir(f"{root}/{inside}") as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True)
    return [(f"{inside}{entry.name}", entry) for entry in found]


def header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    """Return what stands before a file's content: as `tarfile` writes it, in its PAX format, with any Python.

    Its own takes five times as long, and what it writes is no promise of Python's.
    """
    records = [*_long("path", name), *_long("linkpath", target)]
    if size > _LARGEST:
        records.append(("size", str(size)))
    extended = _extended(records) if records else b""
    short = 0 if size > _LARGEST else size
    return extended + _block(_ascii(name), kind, mode & 0o7777, short, EPOCH, _ascii(target))


def _long(key: str, value: str) -> list[tuple[str, str]]:
    return [] if len(value) <= _LONGEST and value.isascii() else [(key, value)]


def _ascii(value: str) -> bytes:
    return value.encode("ascii", "replace")[:_LONGEST]


def _extended(records: list[tuple[str, str]]) -> bytes:
    """Return a PAX header with what the usual one has no room for."""
    content = b""
    if any(not _is_text(value) for _, value in records):
        content = b"21 hdrcharset=BINARY\n"
    for key, value in records:
        rest = f" {key}=".encode() + value.encode("utf-8", "surrogateescape") + b"\n"
        length = len(rest)
        # A record begins with its length, the digits of that included.
        while length != len(rest) + len(str(length)):
            length = len(rest) + len(str(length))
        content += str(length).encode() + rest
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return _block(b"././@PaxHeader", tarfile.XHDTYPE, 0, len(content), 0, b"") + content + padding


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _block(name: bytes, kind: bytes, mode: int, size: int, mtime: int, target: bytes) -> bytes:
    """Return one block of POSIX's ustar, owned by root; its checksum counts as blanks in itself."""
    before = b"%b%07o\0%b%011o\0%011o\0" % (name.ljust(_LONGEST, b"\0"), mode, b"0000000\0" * 2, size, mtime)
    after = b"%b%bustar\x0000%b" % (kind, target.ljust(_LONGEST, b"\0"), _NOBODY)
    return b"%b%06o\0 %b" % (before, sum(before) + sum(after) + 8 * ord(" "), after)


def _read(content: Iterable[bytes | Content]) -> Iterator[bytes]:
    for part in content:
        if isinstance(part, bytes):
            yield part
        elif part.sha256 is None:
            yield from _content(part.path, part.size)
        else:
            yield from _checked(part)


def _checked(part: Content) -> Iterator[bytes]:
    found = hashlib.sha256()
    for block in _content(part.path, part.size):
        found.update(block)
        yield block
    if found.hexdigest() != part.sha256:
        raise ChangedError(part.path)


def _content(path: str, size: int) -> Iterator[bytes]:
    left = size
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # as above
        while True:
            # One byte more than there should be: that a file became longer shows without another read.
            block = file.read(min(left + 1, _BLOCK))
            if len(block) > left:
                raise OSError(f"{path} became longer while it was read")
            left -= len(block)
            if block:
                yield block
            if not block and left:
                raise OSError(f"{path} became shorter while it was read")
            if not block or (not left and len(block) < _BLOCK):
                return

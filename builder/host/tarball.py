"""Entries as a reproducible tar stream: owned by root, with one time for all files."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from builder.model.images import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

# The stream consists of blocks of about this many bytes.
_BLOCK = 1 << 20
# Limits of a plain header: bytes of a name, and a size in eleven octal digits.
_LONGEST = tarfile.LENGTH_NAME
_LARGEST = 8**11 - 1
# Bytes of a name that are not UTF-8, as Python holds them.
_UNDECODED = re.compile("[\ud800-\udfff]")
# Names of user and group, device numbers, the prefix and the rest of the block: all empty.
_NOBODY = bytes(32 + 32 + 8 + 8 + 155 + 12)


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file: its path, its size in bytes, and its sha256, if it is to be verified."""

    path: str
    size: int
    sha256: str | None = None


class ChangedError(Exception):
    """A file does not match its sha256; the path is the argument."""


class LayerEntry(NamedTuple):
    """A file of a layer, a symbolic link to `target`, or a folder. `path` begins without a slash.

    `content` has `size` bytes; it is read once, when its turn comes.
    """

    path: str
    mode: int
    size: int = 0
    content: Iterable[bytes | Content] = ()
    target: str = ""
    kind: bytes = tarfile.REGTYPE


FOLDER_MODE, FILE_MODE, PROGRAM_MODE = 0o755, 0o644, 0o755


def file_of(path: str, content: bytes, mode: int = FILE_MODE) -> LayerEntry:
    """Return a file with this content."""
    return LayerEntry(path, mode, len(content), (content,))


def link_of(path: str, target: str) -> LayerEntry:
    """Return a symbolic link."""
    return LayerEntry(path, 0o777, target=target, kind=tarfile.SYMTYPE)


def folder_of(path: str) -> LayerEntry:
    """Return a folder, which only an empty one needs."""
    return LayerEntry(path, FOLDER_MODE, kind=tarfile.DIRTYPE)


def segments(entries: Iterable[LayerEntry]) -> Iterator[bytes | Content]:
    """Yield the tar of entries: literal bytes, and unread contents of files. Each folder precedes what is in it."""
    folders = {""}
    for path, mode, size, content, target, kind in entries:
        folder = path if kind == tarfile.DIRTYPE else path.rpartition("/")[0]
        if folder not in folders:
            for name in _missing(folder, folders):
                folders.add(name)
                yield header(f"{name}/", tarfile.DIRTYPE, FOLDER_MODE)
        if kind == tarfile.DIRTYPE:
            continue
        yield header(path, kind, mode, size=size, target=target)
        if size:
            yield from content
            yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def merged(content: Iterable[bytes | Content]) -> Iterator[bytes | Content]:
    """Yield the segments of a tar with consecutive literal ones joined: literal ones first, last and in between."""
    literal = bytearray()
    for segment in content:
        if isinstance(segment, Content):
            yield from (bytes(literal), segment)
            literal.clear()
        else:
            literal += segment
    yield bytes(literal)


def _missing(folder: str, folders: AbstractSet[str]) -> list[str]:
    """Return the folders down to one that are not there yet, the outermost first."""
    names = []
    while folder not in folders:
        names.append(folder)
        folder = folder.rpartition("/")[0]
    return names[::-1]


def blocks(content: Iterable[bytes | Content]) -> Iterator[bytes]:
    """Yield the bytes of a tar's segments in blocks of about a megabyte.

    Raises:
        OSError: a file cannot be read, or its size changed.
        ChangedError: a file does not match its sha256.
    """
    waiting, size = list[bytes](), 0
    for block in _read(content):
        waiting.append(block)
        size += len(block)
        if size >= _BLOCK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def entries_below(folder: Path) -> Iterator[LayerEntry]:
    """Yield the entries of a folder, sorted; hard links become separate files, and modes depend on execute bits only.

    Raises:
        OSError: a folder cannot be read.
        ValueError: the folder has a device, a pipe or a socket, which a layer cannot contain.
    """
    waiting = _children(str(folder), "")
    while waiting:
        name, entry = waiting.pop()
        state = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(state.st_mode):
            yield folder_of(name)
            waiting += _children(str(folder), f"{name}/")
        elif stat.S_ISLNK(state.st_mode):
            yield link_of(name, os.readlink(entry.path))  # noqa: PTH115
        elif stat.S_ISREG(state.st_mode):
            mode = PROGRAM_MODE if state.st_mode & stat.S_IXUSR else FILE_MODE
            yield LayerEntry(name, mode, state.st_size, (Content(entry.path, state.st_size),))
        else:
            raise ValueError(f"/{name} is neither a file nor a folder nor a symbolic link")


def _children(root: str, inside: str) -> list[tuple[str, os.DirEntry[str]]]:
    """Return the entries of a folder with their paths in the tar, in reverse order."""
    with os.scandir(f"{root}/{inside}") as entries:
        ordered = sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True)
    return [(f"{inside}{entry.name}", entry) for entry in ordered]


def header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    """Return the header of a file: the same bytes as `tarfile` in PAX format, with any Python version.

    `tarfile` takes five times as long, and Python does not guarantee its exact bytes.
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
    """Return a PAX header with the values that do not fit the plain one."""
    content = b""
    if any(_UNDECODED.search(value) for _, value in records):
        content = b"21 hdrcharset=BINARY\n"
    for key, value in records:
        rest = f" {key}=".encode() + value.encode("utf-8", "surrogateescape") + b"\n"
        length = len(rest)
        # A record begins with its length, which includes the digits of the length.
        while length != len(rest) + len(str(length)):
            length = len(rest) + len(str(length))
        content += str(length).encode() + rest
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return _block(b"././@PaxHeader", tarfile.XHDTYPE, 0, len(content), 0, b"") + content + padding


def _block(name: bytes, kind: bytes, mode: int, size: int, mtime: int, target: bytes) -> bytes:
    """Return one ustar block (POSIX), owned by root; the checksum field counts as blanks."""
    before = b"%b%07o\0%b%011o\0%011o\0" % (name.ljust(_LONGEST, b"\0"), mode, b"0000000\0" * 2, size, mtime)
    after = b"%b%bustar\x0000%b" % (kind, target.ljust(_LONGEST, b"\0"), _NOBODY)
    return b"%b%06o\0 %b" % (before, sum(before) + sum(after) + 8 * ord(" "), after)


def _read(content: Iterable[bytes | Content]) -> Iterator[bytes]:
    for segment in content:
        if isinstance(segment, bytes):
            yield segment
            continue
        digest = hashlib.sha256()
        for block in _content(segment.path, segment.size):
            if segment.sha256:
                digest.update(block)
            yield block
        if segment.sha256 not in (None, digest.hexdigest()):
            raise ChangedError(segment.path)


def _content(path: str, size: int) -> Iterator[bytes]:
    left = size
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # as above
        # One byte more than expected, to detect a longer file.
        while block := file.read(min(left + 1, _BLOCK)):
            left -= len(block)
            if left < 0:
                raise OSError(f"{path} became longer while it was read")
            yield block
    if left:
        raise OSError(f"{path} became shorter while it was read")

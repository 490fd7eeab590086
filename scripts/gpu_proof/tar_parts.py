"""Splits a tar stream into the contents of its files and the literal bytes between them."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_BLOCK = tarfile.BLOCKSIZE
_READ = 1 << 20
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
# Headers whose content describes the next file.
_DESCRIBING = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@dataclass(frozen=True, slots=True)
class FileBegin:
    """A file's content begins: its name and its size. Blocks of its bytes follow."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class FileEnd:
    """A file's content ends."""


def tar_parts(stream: IO[bytes]) -> Iterator[bytes | FileBegin | FileEnd]:
    """Yield all bytes of a tar in order, with marks around the content of each regular file that is not empty.

    Raises:
        tarfile.HeaderError: a header is damaged.
        EOFError: the stream ends within a file.
    """
    name = None
    while header := stream.read(_BLOCK):
        yield header
        if len(header) < _BLOCK or not header.strip(b"\0"):
            continue
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        padding = -info.size % _BLOCK
        if info.type in _DESCRIBING:
            content = b"".join(_blocks(stream, info.size + padding))
            name = _long_name(info.type, content[: info.size]) or name
            yield content
        elif info.type in _REGULAR and info.size:
            yield FileBegin(name or info.name, info.size)
            yield from _blocks(stream, info.size)
            yield FileEnd()
            yield from _blocks(stream, padding)
            name = None
        else:
            name = None


def _blocks(stream: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        block = stream.read(min(size, _READ))
        if not block:
            raise EOFError("the tar ends within a file")
        size -= len(block)
        yield block


def _long_name(kind: bytes, content: bytes) -> str | None:
    if kind == tarfile.GNUTYPE_LONGNAME:
        return content.rstrip(b"\0").decode("utf-8", "surrogateescape")
    if kind != tarfile.XHDTYPE:
        return None
    for record in content.splitlines():
        _, _, field = record.partition(b" ")
        if field.startswith(b"path="):
            return field[5:].decode("utf-8", "surrogateescape")
    return None

"""Reads single members of a wheel, in the wheelhouse or, by ranges, on a server."""

from __future__ import annotations

import errno
import io
import lzma
import re
import zipfile
import zlib
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING, Any, TypeVar

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from builder.remote.answer_bodies import read_body
from builder.remote.http import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

_T = TypeVar("_T")
_PARTIAL_CONTENT = 206
_RANGE_UNSATISFIABLE = 416
# A zip file ends with its directory and a comment of at most 64 KiB.
_TAIL = 1 << 17
_BLOCK = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)")
LONGEST_METADATA = 8 << 20
FLAWS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError)
"""Exceptions from reading a damaged wheel."""


class NoRangesError(Exception):
    """The server does not support ranges, or sends other ranges than those requested."""


class RemoteFile(io.RawIOBase):
    """A file on a server, read by HTTP ranges; each block is fetched once.

    `get` sends a GET request for a URL with `headers`, and streams the answer.
    """

    def __init__(self, url: str, get: Callable[..., requests.Response], retry: Retry | None = None) -> None:
        """Request the end of the file, and with it the file's size.

        Raises:
            NoRangesError: the server does not support ranges.
            requests.RequestException: it does not answer.
        """
        super().__init__()
        self._url, self._send, self._retry = url, get, retry or Retry(tries=3)
        self._blocks: dict[int, bytes] = {}
        self._at = 0
        self._tail, self._tail_from, self.size = self._request(f"-{_TAIL}", _TAIL)
        if self._tail_from + len(self._tail) != self.size:
            raise NoRangesError

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read from the position on."""
        view = memoryview(buffer)
        content = self._read(self._at, min(len(view), self.size - self._at)) if self._at < self.size else b""
        view[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _read(self, start: int, length: int) -> bytes:
        if start >= self._tail_from:
            return self._tail[start - self._tail_from :][:length]
        first, last = start // _BLOCK, (start + length - 1) // _BLOCK
        missing = [number for number in range(first, last + 1) if number not in self._blocks]
        if missing:
            self._fetch(missing[0], missing[-1])
        content = b"".join(self._blocks[number] for number in range(first, last + 1))
        return content[start - first * _BLOCK :][:length]

    def _fetch(self, first: int, last: int) -> None:
        begin, end = first * _BLOCK, min((last + 1) * _BLOCK, self.size)
        content, offset, size = self._request(f"{begin}-{end - 1}", end - begin)
        if (offset, len(content), size) != (begin, end - begin, self.size):
            raise NoRangesError
        for number in range(first, last + 1):
            self._blocks[number] = content[(number - first) * _BLOCK :][:_BLOCK]

    def _request(self, span: str, most: int) -> tuple[bytes, int, int]:
        """Return a range of the file, its offset, and the file's size."""
        return self._retry.run(lambda: self._request_once(span, most))

    def _request_once(self, span: str, most: int) -> tuple[bytes, int, int]:
        with self._send(self._url, headers={"Range": f"bytes={span}", "Accept-Encoding": "identity"}) as answer:
            if answer.status_code != _RANGE_UNSATISFIABLE:
                answer.raise_for_status()
            content_range = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if answer.status_code != _PARTIAL_CONTENT or not content_range:
                raise NoRangesError
            content = read_body(answer, most)
        first, last, size = (int(number) for number in content_range.groups())
        if content is None or len(content) != last - first + 1:
            raise NoRangesError
        return content, first, size


def metadata_of(archive: zipfile.ZipFile) -> bytes:
    """Return a wheel's METADATA.

    Raises:
        ValueError or another of `FLAWS`: there is none, or the archive is damaged.
    """
    names = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA")]
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} METADATA files")
    if archive.getinfo(names[0]).file_size > LONGEST_METADATA:
        raise ValueError("its METADATA is too long")
    return archive.read(names[0])


def check_metadata(content: bytes, filename: str) -> None:
    """Check that METADATA has the distribution and version of the file name.

    Raises:
        ValueError: it has others; the message names them.
    """
    headers = BytesHeaderParser().parsebytes(content)
    name, version, _, _ = parse_wheel_filename(filename)
    inner_name, inner_version = str(headers.get("Name", "")), str(headers.get("Version", ""))
    try:
        same = canonicalize_name(inner_name) == name and Version(inner_version) == version
    except InvalidVersion:
        same = False
    if not same:
        raise ValueError(f"its METADATA is of {inner_name or 'no name'} {inner_version or 'without a version'}")


def with_archive(
    file: io.IOBase, read: Callable[[zipfile.ZipFile], _T], buffer_size: int = io.DEFAULT_BUFFER_SIZE
) -> _T:
    """Return the result of `read` for the archive in `file`; a server is asked for `buffer_size` bytes at least.

    Raises:
        One of `FLAWS`: the archive is damaged.
    """
    try:
        buffered = io.BufferedReader(file, buffer_size) if isinstance(file, io.RawIOBase) else file
        with zipfile.ZipFile(buffered) as archive:
            return read(archive)
    except OSError as error:
        if error.errno == errno.EINVAL:
            # The damaged directory has an offset before the file's beginning.
            raise zipfile.BadZipFile("its directory has offsets outside the file") from error
        raise

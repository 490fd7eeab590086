"""Downloads: resumed within the file, hashed as they arrive, accepted only with the right hash."""

from __future__ import annotations

import fcntl
import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import requests

from builder.errors import JbuildError
from builder.host.file_locks import file_lock
from builder.host.files import disk_errors
from builder.remote import answer_bodies, http, web_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.errors import IntegrityError
    from builder.host.concurrency import Progress
    from builder.host.threaded_hash import ThreadedHash

BLOCK = 1 << 20
# `FICLONE` of linux/fs.h: share the blocks of another file.
_CLONE = 0x40049409


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The properties of a file that its server or lock states; `size` in bytes, `git_id` is Git's SHA-1 of a blob."""

    sha256: str | None = None
    size: int | None = None
    git_id: str | None = None


class PartialBlob:
    """The beginning of a blob: its size and hash so far; `sink` receives each block."""

    def __init__(self, sink: Callable[[bytes], object], size: int | None = None) -> None:
        """Start empty; `size` (bytes) is that of the complete blob, if known."""
        self._sink, self.expected_size = sink, size
        self._reset()

    def _reset(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash so far, in hex."""
        return self._sha256.hexdigest()

    def add(self, block: bytes) -> None:
        """Append the next bytes."""
        self._sink(block)
        self._count(block)

    def _count(self, block: bytes) -> None:
        self.size += len(block)
        self._sha256.update(block)

    def restart(self) -> None:
        """Drop everything.

        Raises:
            requests.ConnectionError: always, since the sink has the bytes.
        """
        raise requests.ConnectionError("the server cannot resume within a blob")


class PartialFile(PartialBlob):
    """The beginning of a file on disk, which an earlier run may have written."""

    def __init__(
        self, file: IO[bytes], expected: Expected, progress: Progress, framed: ThreadedHash | None = None
    ) -> None:
        """Take a file open for reading and writing; `framed` gets its bytes, too."""
        self.expected, self.progress, self._file, self._framed = expected, progress, file, framed
        super().__init__(file.write, expected.size)

    def _reset(self) -> None:
        super()._reset()
        # The only hash that hubs list for small files; of large ones, it would take as long as the other.
        start, expected = b"blob %d\x00" % (self.expected.size or 0), self.expected.git_id and not self.expected.sha256
        self._git = hashlib.sha1(start, usedforsecurity=False) if expected else None
        if self._framed:
            self._framed.restart()

    def _count(self, block: bytes) -> None:
        if self._framed:
            self._framed.update(block)
        super()._count(block)
        if self._git:
            self._git.update(block)
        self.progress.advance(len(block))

    def resume(self) -> None:
        """Hash the bytes of an earlier run; drop them if they are more than the complete file."""
        self._reread()
        if self.expected_size is not None and self.size > self.expected_size:
            self.restart()

    def restart(self) -> None:
        """Drop everything."""
        self.progress.on_bytes(-self.size)
        self._file.seek(0)
        self._file.truncate()
        self._reset()

    def copy_from(self, source: IO[bytes]) -> None:
        """Replace everything with a copy of another file, sharing its blocks if the file system can.

        Not with a hard link, since the copy's mode and times will change.
        """
        self.restart()
        if _clone(source, self._file):
            self._reread()
            return
        while block := source.read(BLOCK):
            self.add(block)

    def _reread(self) -> None:
        while block := self._file.read(BLOCK):
            self._count(block)

    def flaw(self) -> str | None:
        """Return how the content differs from the expected one, or None."""
        if self.expected.size is not None and self.size != self.expected.size:
            return f"{self.size} bytes or more, expected {self.expected.size}"
        if self.expected.sha256:
            return None if self.sha256 == self.expected.sha256 else self._differs("sha256", self.sha256)
        git_id = self._git.hexdigest() if self._git else None
        return None if self.expected.git_id == git_id else self._differs("git id", str(git_id))

    def _differs(self, kind: str, actual: str) -> str:
        return f"{kind} {actual}, expected {self.expected.sha256 or self.expected.git_id}"


def download(
    fetch: Callable[[PartialFile], object],
    mismatch: Callable[[PartialFile], IntegrityError],
    path: Path,
    expected: Expected,
    progress: Progress,
    framed: ThreadedHash | None = None,
) -> str:
    """Have `fetch` append the missing bytes of the file at `path`, and return its sha256.

    `framed` gets the bytes of the file, too.

    Raises:
        IntegrityError: the source serves other bytes (the error is `mismatch`'s); the file is removed.
        JbuildError: the source refuses or cannot be reached; the bytes so far stay.
    """
    path.touch()
    with path.open("r+b") as file:
        content = PartialFile(file, expected, progress, framed)
        content.resume()
        resumed = content.size > 0
        try:
            if content.flaw():
                fetch(content)
            if resumed and content.flaw():
                # The earlier run may have left damaged bytes.
                content.restart()
                fetch(content)
        except JbuildError:
            progress.on_bytes(-content.size)
            raise
    if content.flaw():
        path.unlink()
        raise mismatch(content)
    return content.sha256


def download_once(target: Path, fetch: Callable[[Path], object], check: Callable[[], object]) -> bool:
    """Have `fetch` write a partial file and rename it to `target`, once for all threads and processes.

    `check` may raise to end the wait for another process. Returns whether the file was missing.

    Raises:
        DiskError: the disk is full or cannot be written.
    """
    with disk_errors(target), file_lock(target.parent / "lock", check):
        if target.is_file():
            return False
        partial = target.parent / "partial"
        fetch(partial)
        partial.rename(target)
        return True


def receive(request: Callable[[dict[str, str]], requests.Response], blob: PartialBlob, retry: http.Retry) -> None:
    """Append the missing bytes of a blob from a server, with retries.

    `request` sends the GET request with the given headers, streamed. A server without ranges sends the blob from its
    beginning; the bytes so far are skipped.

    Raises:
        requests.RequestException: the last failure.
    """

    def attempt() -> None:
        if blob.size == blob.expected_size:
            return
        # A compressed answer has another length, and no ranges.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={blob.size}-"} if blob.size else {})
        with request(headers) as response:
            if blob.size and _is_other_range(response, blob.size):
                blob.restart()
                raise requests.ConnectionError("the server cannot resume within a file")
            response.raise_for_status()
            web_pages.refuse_web_page(response)
            skip = 0 if response.status_code == HTTPStatus.PARTIAL_CONTENT else blob.size
            for block in answer_bodies.downloaded(response, BLOCK):
                blob.add(block[skip:])
                skip = max(0, skip - len(block))
                if blob.expected_size is not None and blob.size > blob.expected_size:
                    return
        if blob.expected_size is not None and blob.size < blob.expected_size:
            raise requests.ConnectionError(f"the connection was cut after {blob.size} of {blob.expected_size} bytes")

    retry.run(attempt, progress=lambda: blob.size)


def local_path(url: str) -> Path | None:
    """Return the path in a file:// address or plain path, or None for a server's address."""
    if "://" not in url:
        return Path(url)
    return Path(unquote(urlsplit(url).path)) if url.startswith("file://") else None


def _is_other_range(response: requests.Response, start: int) -> bool:
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        return not response.headers.get("Content-Range", f"bytes {start}-").startswith(f"bytes {start}-")
    return response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def _clone(source: IO[bytes], copy: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(copy.fileno(), _CLONE, source.fileno())
    except OSError:
        return False
    return True

"""Blobs that are sent to a registry, and their upload: a streamed PUT, resumed at the offset that it reports."""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

import requests

from builder.errors import DiskError, IntegrityError, RegistryError
from builder.host.files import sha256_of
from builder.remote.registry.transport import scopes_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from builder.errors import JbuildError
    from builder.remote.registry.transport import Transport

_BLOCK = 1 << 20
# Limits in seconds for a write, and for the registry to hash and store the blob: at least, per byte, and at most.
_WRITE_WITHIN_S = 60.0
_STORED_WITHIN_S = (60.0, 1 / 5e6, 600.0)
CANCEL_WITHIN_S = (3.0, 3.0)
_CANNOT_RESUME = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
# The registry has not looked at such a request: the upload is as it was.
_NOT_PROCESSED = (HTTPStatus.TOO_MANY_REQUESTS,)


class Readable(Protocol):
    """A stream of bytes; an empty read is its end."""

    def read(self, size: int = ..., /) -> bytes:
        """Return the next bytes."""


class BlobSource(Protocol):
    """A blob that can be read from any offset; `size` is in bytes."""

    @property
    def digest(self) -> str:
        """The digest of the bytes."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    def open(self, offset: int) -> AbstractContextManager[Readable]:
        """Open the bytes from an offset on."""

    def find_corruption(self) -> JbuildError | None:
        """Return an error if the bytes, which a registry has refused, do not have the digest."""


@dataclass(frozen=True, slots=True)
class FileBlob:
    """A file on disk; `digest` is that of its content."""

    file: Path
    digest: str

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self.file.stat().st_size

    @contextmanager
    def open(self, offset: int) -> Iterator[Readable]:
        """Open the file's bytes from an offset on."""
        with self.file.open("rb") as file:
            file.seek(offset)
            yield file

    def find_corruption(self) -> JbuildError | None:
        """Return an error if the file does not have the digest."""
        if f"sha256:{sha256_of(self.file)}" == self.digest:
            return None
        hint = "remove the file, then run the same command again"
        return IntegrityError("a cached file does not match its digest", where=str(self.file), hint=hint)


@dataclass(frozen=True, slots=True)
class BytesBlob:
    """A small blob in memory."""

    content: bytes

    @property
    def digest(self) -> str:
        """The content's digest."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @property
    def size(self) -> int:
        """The content's length."""
        return len(self.content)

    @contextmanager
    def open(self, offset: int) -> Iterator[Readable]:
        """Open the content from an offset on."""
        yield io.BytesIO(self.content[offset:])

    def find_corruption(self) -> JbuildError | None:
        """Return None: the digest is computed from these bytes."""
        return None


def upload_address(transport: Transport, repository: str, response: requests.Response) -> str:
    """Return the address of an opened upload, from the `Location` header of the registry's answer.

    Raises:
        RegistryError: the answer opens no upload.
    """
    location = response.headers.get("Location")
    if location:
        return transport.address_in_header(location, "Location")
    raise RegistryError(
        f"the registry opened an upload without a Location header (it answers {response.status_code})",
        where=f"{transport.host}/{repository}",
        hint="is it a registry of API version 2?",
    )


class Upload:
    """Sends a blob. `on_bytes` receives the bytes sent since its last call; negative when some must be sent again."""

    def __init__(
        self, transport: Transport, repository: str, source: BlobSource, on_bytes: Callable[[int], object]
    ) -> None:
        """Take the blob and its destination."""
        self._transport, self._repository = transport, repository
        self._source, self._digest = source, source.digest
        self._on_bytes, self._size = on_bytes, source.size
        self._once = partial(transport.once, scopes=scopes_for(repository, "push"))
        self._location: str | None = None
        self._postponed: int | None = None
        self._reported = self._furthest = 0

    def run(self) -> None:
        """Send the blob and check that the registry has it.

        Raises:
            RegistryError: the registry refused it or could not be reached.
            IntegrityError: the source's bytes do not have its digest.
        """
        doing = f"cannot send blob {self._digest[:19]}…"
        with self._transport.explained(self._repository, "push", doing):
            try:
                self._transport.retrying(self._attempt, lambda: self._furthest)
            except BaseException as error:
                self._cancel()
                if isinstance(error, requests.HTTPError) and error.response.status_code == HTTPStatus.BAD_REQUEST:
                    corruption = self._source.find_corruption()
                    if corruption:
                        raise corruption from error
                raise

    def _attempt(self) -> None:
        postponed, self._postponed = self._postponed, None
        # The connection may have been lost after the registry had stored the whole blob.
        if postponed is None and self._location and self._stored_size() == self._size:
            self._report(self._size)
            return
        offset = self._resumable() if postponed is None else postponed
        try:
            self._put(offset)
        except requests.HTTPError as error:
            if error.response.status_code in _NOT_PROCESSED:
                self._postponed = offset
            resumed = offset or postponed is not None
            if not resumed or error.response.status_code not in _CANNOT_RESUME:
                raise
            self._start()
            self._put(0)
        stored = self._stored_size()
        if stored != self._size:
            raise RegistryError(
                f"the registry accepted blob {self._digest} but shows {stored} bytes of {self._size}",
                where=f"{self._transport.host}/{self._repository}",
                hint="check the registry's log and storage",
            )

    def _start(self) -> None:
        self._cancel()
        self._follow(self._once("POST", f"/v2/{self._repository}/blobs/uploads/", body=bytes))

    def _follow(self, response: requests.Response) -> None:
        self._location = upload_address(self._transport, self._repository, response)

    def _resumable(self) -> int:
        """Return how many bytes the open upload has; open a new one if there is none."""
        if self._location:
            response = self._once("GET", self._location, absent_ok=True)
            match = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", response.headers.get("Range", ""))
            # distribution writes "0-0" both for no byte and for one byte.
            if response.ok and match and 0 < int(match[1]) < self._size:
                self._follow(response)
                return int(match[1]) + 1
        self._start()
        return 0

    def _put(self, offset: int) -> None:
        self._report(offset)
        self._furthest = max(self._furthest, offset)
        location = self._location or ""
        url = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': self._digest})}"
        headers = {"Content-Type": "application/octet-stream"}
        if 0 < offset < self._size:
            headers["Content-Range"] = f"{offset}-{self._size - 1}"
        with ExitStack() as opened:
            self._once("PUT", url, headers=headers, body=lambda: self._body(opened, offset), timeout=self._within_s)

    @property
    def _within_s(self) -> tuple[float, float]:
        least, per_byte, most = _STORED_WITHIN_S
        return _WRITE_WITHIN_S, min(most, least + self._size * per_byte)

    def _body(self, opened: ExitStack, offset: int) -> Body | bytes:
        self._report(offset)
        if offset >= self._size:
            return b""
        return Body(opened.enter_context(self._source.open(offset)), self._size - offset, self._count)

    def _stored_size(self) -> int | None:
        response = self._once("HEAD", f"/v2/{self._repository}/blobs/{self._digest}", absent_ok=True)
        size = response.headers.get("Content-Length", "")
        return int(size) if response.ok and size.isdecimal() else None

    def _count(self, amount: int) -> None:
        self._reported += amount
        self._on_bytes(amount)

    def _report(self, offset: int) -> None:
        if offset != self._reported:
            self._count(offset - self._reported)

    def _cancel(self) -> None:
        """Delete the open upload; it will not be resumed."""
        if self._location:
            # Registries purge abandoned uploads after some days anyway.
            with suppress(requests.RequestException, RegistryError):
                self._once("DELETE", self._location, timeout=CANCEL_WITHIN_S)
            self._location = None


class Body:
    """A request's body of known length, read while it is sent."""

    def __init__(self, file: Readable, length: int, on_bytes: Callable[[int], object]) -> None:
        """Take an open stream and the number of bytes to send."""
        self._file, self._length, self._on_bytes = file, length, on_bytes

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.read, b"")

    def read(self, size: int = _BLOCK) -> bytes:
        """Return the next block."""
        try:
            block = self._file.read(size)
        except OSError as error:
            # requests would treat an OSError as a lost connection, and jbuild would retry.
            raise DiskError(f"cannot read: {error.strerror}", where=getattr(self._file, "name", None)) from error
        self._on_bytes(len(block))
        return block

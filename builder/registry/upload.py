"""One blob on its way into a registry: one streamed PUT, resumed where the registry says it stopped."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlencode

import requests

from builder.errors import DiskError, IntegrityError, RegistryError
from builder.registry.transport import scopes_for
from builder.workspace import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.registry.transport import Transport

_BLOCK = 1 << 20
# Waiting for room to write, and for the registry to hash and store what it got, in seconds.
WITHIN_S = (60.0, 600.0)
_CANNOT_RESUME = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class Upload:
    """Sends a file as a blob. `on_bytes` gets the bytes sent since last time; negative when some must go again."""

    def __init__(
        self,
        transport: Transport,
        repository: str,
        path: Path,
        digest: str,
        *,
        on_bytes: Callable[[int], object],
        within_s: tuple[float, float] = WITHIN_S,
    ) -> None:
        """Take what to send and where."""
        self._transport, self._repository = transport, repository
        self._path, self._digest = path, digest
        self._on_bytes, self._within_s = on_bytes, within_s
        self._size = path.stat().st_size
        self._scopes = scopes_for(repository, "push")
        self._location: str | None = None
        self._reported = self._furthest = 0

    def run(self) -> None:
        """Send it, and read back that it is there.

        Raises:
            RegistryError: the registry refused it or could not be reached.
            IntegrityError: the file is not what its digest says.
        """
        doing = f"cannot send blob {self._digest[:19]}…"
        with self._transport.explained(repository=self._repository, right="push", doing=doing):
            try:
                self._transport.retry.run(self._attempt, progress=lambda: self._furthest)
            except requests.HTTPError as error:
                self._blame_the_file(error)
                raise

    def _attempt(self) -> None:
        # The connection may have been lost after the registry had stored all of it.
        if self._location and self._held() == self._size:
            self._report(self._size)
            return
        offset = self._resumable()
        try:
            self._put(offset)
        except requests.HTTPError as error:
            if not offset or error.response.status_code not in _CANNOT_RESUME:
                raise
            self._start()
            self._put(0)
        held = self._held()
        if held != self._size:
            raise RegistryError(
                f"the registry took blob {self._digest} but shows {held} bytes of {self._size}",
                where=f"{self._transport.host}/{self._repository}",
                hint="look into the registry's log and storage",
            )

    def _start(self) -> None:
        response = self._transport.once(
            "POST", f"/v2/{self._repository}/blobs/uploads/", scopes=self._scopes, body=bytes
        )
        self._follow(response)

    def _follow(self, response: requests.Response) -> None:
        location = response.headers.get("Location")
        if not location:
            raise RegistryError(
                "the registry opens an upload without saying where",
                where=f"{self._transport.host}/{self._repository}",
                hint="is it a registry of API version 2?",
            )
        self._location = self._transport.absolute(location)

    def _resumable(self) -> int:
        """Return how many bytes the open upload holds; opens a new one if there is none."""
        if self._location:
            response = self._transport.once("GET", self._location, scopes=self._scopes, absent_ok=True)
            match = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", response.headers.get("Range", ""))
            # "0-0" is how distribution writes both no byte and one byte.
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
        with self._path.open("rb") as file:
            self._transport.once(
                "PUT",
                url,
                scopes=self._scopes,
                headers=headers,
                body=lambda: self._body(file, offset),
                timeout=self._within_s,
            )

    def _body(self, file: BinaryIO, offset: int) -> Body | bytes:
        file.seek(offset)
        self._report(offset)
        return Body(file, self._size - offset, self._count) if offset < self._size else b""

    def _held(self) -> int | None:
        response = self._transport.once(
            "HEAD", f"/v2/{self._repository}/blobs/{self._digest}", scopes=self._scopes, absent_ok=True
        )
        return int(response.headers.get("Content-Length", -1)) if response.ok else None

    def _count(self, sent: int) -> None:
        self._reported += sent
        self._on_bytes(sent)

    def _report(self, sent: int) -> None:
        if sent != self._reported:
            self._count(sent - self._reported)

    def _blame_the_file(self, error: requests.HTTPError) -> None:
        if error.response.status_code != HTTPStatus.BAD_REQUEST or f"sha256:{sha256_of(self._path)}" == self._digest:
            return
        raise IntegrityError(
            f"the built image's blob {self._digest} has changed on disk",
            where=str(self._path),
            hint="remove the file and build the cell again with --force",
        ) from error


class Body:
    """A request's body of known length that is read as it is sent."""

    def __init__(self, file: BinaryIO, length: int, on_bytes: Callable[[int], object]) -> None:
        """Take an open file at its position, and how much of it to send."""
        self._file, self._length, self._on_bytes = file, length, on_bytes

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read():
            yield block

    def read(self, size: int = _BLOCK) -> bytes:
        """Return the next block."""
        try:
            block = self._file.read(size)
        except OSError as error:
            # As an OSError it would pass for a lost connection, and be tried again.
            raise DiskError(f"cannot read: {error.strerror}", where=self._file.name) from error
        self._on_bytes(len(block))
        return block

"""Downloads one file of a hub: resumed within the file, hashed as it comes, trusted only when the hash is right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Protocol

import requests

from builder import http
from builder.errors import IntegrityError
from builder.models import hub, store
from builder.models.refusals import asked, token_header

if TYPE_CHECKING:
    from pathlib import Path

    from builder.models.hub import HubFile
    from builder.models.places import HubPlace
    from builder.models.threads import Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class HubLine:
    """A connection to a model on a hub; threads share it."""

    place: HubPlace
    session: requests.Session

    @property
    def source(self) -> str:
        """The model as recipes write it."""
        return self.place.source

    def bring(self, wanted: HubFile, partial: Path, watch: Watch) -> str:
        """Bring a file into `partial`; see `download`."""
        return download(wanted, partial, self, watch)


class Line(Protocol):
    """A connection to a place with models; threads share it."""

    @property
    def source(self) -> str:
        """The model as recipes write it."""
        ...

    def bring(self, wanted: HubFile, partial: Path, watch: Watch) -> str:
        """Bring a file into `partial`, going on from what is there, and return its sha256.

        Raises:
            IntegrityError: other bytes come than are listed; nothing of them is kept.
            ModelError, NetworkError, RegistryError: the place refuses or cannot be reached; what has come is kept.
        """
        ...


class _Gathering:
    """The part of a file that is here, with its hashes so far."""

    def __init__(self, wanted: HubFile, file: IO[bytes]) -> None:
        self.wanted, self.file = wanted, file
        self.restart()

    def restart(self) -> None:
        """Forget what is here."""
        self.size = 0
        self.sha256 = hashlib.sha256()
        # Git's name of a file's content; the only thing that a hub tells of small files.
        self.git = hashlib.sha1(b"blob %d\x00" % self.wanted.size, usedforsecurity=False)
        self.file.seek(0)

    def add(self, block: bytes) -> None:
        """Take the next bytes."""
        self.sha256.update(block)
        self.git.update(block)
        self.file.write(block)
        self.size += len(block)

    def reread(self) -> None:
        """Take what an earlier run left."""
        while block := self.file.read(store.BLOCK):
            self.sha256.update(block)
            self.git.update(block)
            self.size += len(block)

    def flaw(self) -> str | None:
        """Return how the content differs from the one that is wanted, or None."""
        if self.size != self.wanted.size:
            return f"{self.size} bytes or more, expected {self.wanted.size}"
        if self.wanted.sha256 and self.sha256.hexdigest() != self.wanted.sha256:
            return f"sha256 {self.sha256.hexdigest()}, expected {self.wanted.sha256}"
        if not self.wanted.sha256 and self.wanted.git_id and self.git.hexdigest() != self.wanted.git_id:
            return f"git id {self.git.hexdigest()}, expected {self.wanted.git_id}"
        return None


def download(wanted: HubFile, partial: Path, line: HubLine, watch: Watch) -> str:
    """Bring a file into `partial`, going on from what is there, and return its sha256.

    Raises:
        IntegrityError: the hub serves other bytes than it lists; nothing of them is kept.
        ModelError, NetworkError: the hub refuses or cannot be reached; what has arrived is kept.
    """
    resumes = partial.exists() and partial.stat().st_size > 0
    sha256, flaw = _gather(wanted, partial, line, watch)
    if flaw and resumes:
        # The beginning may have been damaged by whatever ended the earlier run.
        partial.unlink()
        sha256, flaw = _gather(wanted, partial, line, watch)
    if flaw:
        partial.unlink()
        raise IntegrityError(
            f"{wanted.path} of {line.place.source} is not the file that it should be: {flaw}",
            where=http.scrub(hub.address(line.place, wanted.path)),
            hint="a proxy or mirror may have changed it: run it again, or set HF_ENDPOINT to another hub",
        )
    return sha256


def _gather(wanted: HubFile, partial: Path, line: HubLine, watch: Watch) -> tuple[str, str | None]:
    partial.touch()
    with partial.open("r+b") as file:
        gathering = _Gathering(wanted, file)
        gathering.reread()
        watch.advance(gathering.size)
        # A server without ranges begins anew each time; only what was never reached before counts as progress.
        furthest = 0

        def progress() -> int:
            nonlocal furthest
            furthest = max(furthest, gathering.size)
            return furthest

        if gathering.size > wanted.size:
            gathering.restart()
        asked(line.place, http.Retry(sleep=watch.sleep), lambda: _receive(gathering, line, watch), progress)
        file.truncate()
        return gathering.sha256.hexdigest(), gathering.flaw()


def _receive(gathering: _Gathering, line: HubLine, watch: Watch) -> None:
    wanted = gathering.wanted
    if gathering.size == wanted.size:
        return
    # A compressed answer would have another length, and no ranges.
    asking = {"Accept-Encoding": "identity"}
    if gathering.size:
        asking["Range"] = f"bytes={gathering.size}-"
    url = hub.address(line.place, wanted.path)
    with line.session.get(url, headers=asking, auth=_authorised, stream=True) as answer:
        if answer.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            answer.raise_for_status()
        if gathering.size and not _continues(answer, gathering.size):
            watch.advance(-gathering.size)
            gathering.restart()
            if answer.status_code != HTTPStatus.OK:
                raise requests.ConnectionError("the server cannot go on within a file")
        for block in answer.iter_content(store.BLOCK):
            gathering.add(block)
            watch.advance(len(block))
            if gathering.size > wanted.size:
                return
    if gathering.size < wanted.size:
        raise requests.ConnectionError(f"the connection was cut after {gathering.size} of {wanted.size} bytes")


def _authorised(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """As headers alone, a password for the hub's git in ~/.netrc would replace them."""
    request.headers.update(token_header())
    return request


def _continues(answer: requests.Response, at: int) -> bool:
    spans = answer.headers.get("Content-Range", "").startswith(f"bytes {at}-")
    return answer.status_code == HTTPStatus.PARTIAL_CONTENT and spans

"""What a cell may take from the indexes that its packages are tied to, and what each wheel says of itself."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from builder.errors import IntegrityError, JbuildError, NetworkError
from builder.host.concurrency import Progress
from builder.host.files import write_bytes
from builder.remote import http
from builder.remote.download import Expected, download, download_once, local_path, receive
from builder.remote.index.remote_wheel import (
    FLAWS,
    LONGEST_METADATA,
    NoRangesError,
    RemoteFile,
    body,
    check_metadata,
    metadata_of,
    with_archive,
)

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Mapping

    from builder.host.paths import Workspace
    from builder.remote.download import PartialFile
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.index_pins import IndexPins
    from builder.remote.index.listing import Index, IndexFile, ProjectPage


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedFile:
    """A locked file that the index serves with other bytes now; `kept` tells whether the locked ones are still here."""

    index: str
    filename: str
    locked: str
    served: str
    kept: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A file that may be taken, and the index that it is on."""

    index: Index
    file: IndexFile


@dataclass(slots=True)
class IndexView:
    """The tied packages of one cell. Threads may share it.

    `locked` are the files of the lock before, by name, with their sha256 and URL: those that are in the wheelhouse are
    still offered when the index serves others under their names.
    """

    ties: IndexPins
    client: IndexClient
    workspace: Workspace
    locked: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    offers: dict[str, Candidate] = field(default_factory=dict)
    changed: dict[str, ChangedFile] = field(default_factory=dict)
    pages: dict[str, ProjectPage] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    _unreadable: dict[str, JbuildError] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def files(self, project: str) -> tuple[IndexFile, ...] | None:
        """Return what uv may choose from for a package, or None if the package is not tied.

        Raises:
            NetworkError: the index does not answer.
        """
        index = self.ties.index(project)
        if index is None:
            return None
        page = self.client.page(index, project)
        if page is None:
            return ()
        named: dict[str, IndexFile] = {}
        for file in page.files:
            # A page that lists a name twice, with two hashes, means the one that was locked, else its first.
            locked = self.locked.get(file.filename, ("", ""))[0]
            if fitting(index, file) and (file.filename not in named or file.sha256 == locked):
                named[file.filename] = file
        files = tuple(self._locked_or(index, file) for file in named.values())
        with self._mutex:
            self.pages[project] = page
            self.offers.update({file.sha256 or "": Candidate(index=index, file=file) for file in files})
        return files

    def metadata(self, sha256: str) -> bytes:
        """Return the METADATA of a file that was offered, checked against its name.

        Raises:
            IntegrityError: the file is no wheel, or another than its name says.
            NetworkError: it cannot be read.
        """
        if sha256 in self._unreadable:
            # uv asks again after some failures; whole wheels are not fetched again for that.
            raise self._unreadable[sha256]
        offer = self.offers[sha256]
        try:
            return wheel_metadata(offer.index, offer.file, self.client, self.workspace)
        except JbuildError as error:
            self._unreadable[sha256] = error
            raise

    def fail(self, error: Exception) -> None:
        """Remember an error that uv will only see as a failed request."""
        with self._mutex:
            self.errors.append(error)

    def _locked_or(self, index: Index, file: IndexFile) -> IndexFile:
        locked, url = self.locked.get(file.filename, (file.sha256, file.url))
        if locked == file.sha256 or locked is None:
            return file
        kept = self.workspace.wheel(locked, file.filename).is_file()
        with self._mutex:
            self.changed[file.filename] = ChangedFile(
                index=index.name, filename=file.filename, locked=locked, served=file.sha256 or "", kept=kept
            )
        return replace(file, sha256=locked, url=url, metadata=None) if kept else file


def is_foreign(index: Index, file: IndexFile) -> bool:
    """Tell whether a file is another index's, which this one only passes on."""
    return any(part in urlsplit(file.url).path for part in index.foreign_files)


def fitting(index: Index, file: IndexFile) -> bool:
    """Tell whether a file is the index's own wheel, with a hash to trust it by."""
    return not is_foreign(index, file) and file.filename.endswith(".whl") and file.sha256 is not None


def wheel_metadata(index: Index, file: IndexFile, client: IndexClient, workspace: Workspace) -> bytes:
    """Return a wheel's METADATA, from the cache if it was read before.

    Raises:
        IntegrityError: the file is no wheel, or another than its name says.
        NetworkError: it cannot be read.
    """
    path = workspace.metadata(file.sha256 or "")
    if path.is_file():
        return path.read_bytes()
    content = _beside(file, client) or read_wheel(index, file, client, workspace, metadata_of)
    try:
        check_metadata(content, file.filename)
    except ValueError as error:
        raise _unfit(index, file, str(error)) from error
    write_bytes(path, content)
    return content


def read_wheel(
    index: Index,
    file: IndexFile,
    client: IndexClient,
    workspace: Workspace,
    read: Callable[[zipfile.ZipFile], bytes],
) -> bytes:
    """Return what `read` finds in a wheel: in the wheelhouse if it is there, else on the server, by ranges if it can.

    Raises:
        IntegrityError: the file is no wheel.
        NetworkError: it cannot be read.
    """
    local = workspace.wheel(file.sha256 or "", file.filename)
    if (given := local_path(file.url)) and not local.is_file():
        local = given
    try:
        if not local.is_file():
            try:
                return with_archive(RemoteFile(file.url, client.get), read)
            except NoRangesError:
                fetcher = _IndexFileFetcher(index=index, file=file, client=client)
                expected = Expected(sha256=file.sha256)
                download_once(local, lambda path: download(fetcher, path, expected, Progress()), lambda: None)
        with local.open("rb") as whole:
            return with_archive(whole, read)
    except requests.RequestException as error:
        failure = http.network_error(error, file.url)
        message = f"{file.filename} cannot be read: {failure.message}"
        raise NetworkError(message, where=failure.where, hint=failure.hint) from error
    except FLAWS as error:
        raise _unfit(index, file, f"it is no sound wheel: {error}") from error


def _beside(file: IndexFile, client: IndexClient) -> bytes | None:
    """Return the METADATA that the index serves beside a wheel; where it does not after all, the wheel's own counts."""
    if file.metadata is None:
        return None
    parts = urlsplit(file.url)
    try:
        with client.get(parts._replace(path=f"{parts.path}.metadata").geturl()) as answer:
            answer.raise_for_status()
            content = body(answer, LONGEST_METADATA)
    except requests.RequestException:
        return None
    return content if content and file.metadata in ("", hashlib.sha256(content).hexdigest()) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _IndexFileFetcher:
    """A whole wheel of an index that does not serve ranges."""

    index: Index
    file: IndexFile
    client: IndexClient

    def fetch(self, content: PartialFile) -> None:
        receive(lambda headers: self.client.get(self.file.url, headers=headers), content, http.Retry(tries=3))

    def mismatch(self, content: PartialFile) -> IntegrityError:  # noqa: ARG002  # the index's hash says it all
        return _unfit(self.index, self.file, "its bytes do not have the sha256 that the index gives")


def _unfit(index: Index, file: IndexFile, why: str) -> IntegrityError:
    name, version, *_ = [*file.filename.split("-"), ""]
    plain = re.sub(r"[-_.]+", "-", name).lower()
    return IntegrityError(
        f"{file.filename} of the index {index.name} cannot be used: {why}",
        where=http.scrub(file.url),
        hint=f'leave it out with `constraints = ["{plain}!={version}"]` in the recipe, and tell whoever runs the index',
    )

"""The candidates of a cell in the indexes that its packages are pinned to, and their METADATA."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import requests

from builder.errors import IntegrityError, JbuildError
from builder.host.concurrency import Progress
from builder.host.file_locks import scratch
from builder.host.files import disk_errors, write_bytes
from builder.remote import answer_bodies, http
from builder.remote.addresses import scrub
from builder.remote.download import Expected, PartialBlob, download, download_once, local_path, receive
from builder.remote.index.remote_wheel import (
    FLAWS,
    LONGEST_METADATA,
    NoRangesError,
    RemoteFile,
    check_metadata,
    metadata_of,
    with_archive,
)
from builder.remote.vault.vaulted_files import read_vaulted, vaulted, vaulted_metadata

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import Index, IndexFile, IndexPins, ProjectPage


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedFile:
    """A locked file that the index now serves with other bytes; `in_wheelhouse`: it or a vault has the locked ones."""

    index: str
    filename: str
    locked: str
    served: str
    in_wheelhouse: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A file that uv may choose, and its index; `read` returns the METADATA of one that is not a wheel."""

    index: Index
    file: IndexFile
    read: Callable[[], bytes] | None = None


class SourceProject(Protocol):
    """A package that is built, as an index would list it."""

    @property
    def index(self) -> Index:
        """The index of its sources."""
        ...

    def candidates(self) -> tuple[Candidate, ...]:
        """Return a candidate for each version; its file has a wheel's name, and the address of the source.

        Raises:
            JbuildError: there are no sources, or they cannot be read.
        """
        ...


@dataclass(slots=True)
class IndexView:
    """The pinned packages of one cell, and the `sources` that it builds. Threads may share it.

    `locked` are the files of the previous lock by name, with their sha256 and URL: those in the wheelhouse or a vault
    stay candidates when the index serves others under their names. `errors` are those that uv sees as failed requests
    only.

    An index without hashes: until a file is fetched, the sha256 of its URL stands for its own, and `unhashed` has it.
    """

    pins: IndexPins
    client: IndexClient
    workspace: Workspace
    locked: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    sources: dict[str, SourceProject] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    changed: dict[str, ChangedFile] = field(default_factory=dict)
    pages: dict[str, ProjectPage] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    unhashed: dict[str, Candidate] = field(default_factory=dict)
    _hashed: dict[str, IndexFile] = field(default_factory=dict)
    _hashing: threading.Lock = field(default_factory=threading.Lock)
    _unreadable: dict[str, JbuildError] = field(default_factory=dict)

    def index_of(self, project: str) -> Index | None:
        """Return the index of a package that is pinned or built, or None for others."""
        source = self.sources.get(project)
        return source.index if source else self.pins.index(project)

    def files(self, project: str) -> tuple[IndexFile, ...] | None:
        """Return the files that uv may choose for a package, or None if the package is neither pinned nor built.

        Raises:
            NetworkError: the index does not answer.
        """
        if source := self.sources.get(project):
            candidates = source.candidates()
            self.candidates.update({candidate.file.sha256 or "": candidate for candidate in candidates})
            return tuple(candidate.file for candidate in candidates)
        index = self.pins.index(project)
        if index is None:
            return None
        page = self.client.page(index, project)
        if page is None:
            return ()
        named: dict[str, IndexFile] = {}
        for file in own_wheels(index, page.files):
            # Of two files with one name the locked one is used, else the first.
            locked = self.locked.get(file.filename, ("", ""))[0]
            if file.filename not in named or file.sha256 == locked:
                named[file.filename] = file
        files = tuple(self._locked_or(index, file) for file in named.values())
        self.pages[project] = page
        self.candidates.update({file.sha256 or "": Candidate(index=index, file=file) for file in files})
        return files

    def metadata(self, sha256: str) -> bytes:
        """Return the METADATA of a candidate, checked against its name.

        Raises:
            IntegrityError: the file is not a wheel, or not the one of its name.
            NetworkError: it cannot be read.
        """
        if sha256 in self._unreadable:
            # uv retries after some failures, for which wheels are not downloaded again.
            raise self._unreadable[sha256]
        candidate = self.candidates[sha256]
        try:
            if candidate.read:
                return candidate.read()
            if sha256 in self.unhashed:
                return self._metadata_without_hash(sha256)
            return wheel_metadata(candidate.index, candidate.file, self.client, self.workspace)
        except JbuildError as error:
            self._unreadable[sha256] = error
            raise

    def hashed(self, sha256: str) -> IndexFile:
        """Return the file of a candidate with its own sha256; one without a hash is fetched into the wheelhouse.

        Raises:
            IntegrityError: the file is not a wheel, or not the one of its name.
            NetworkError: it cannot be read.
        """
        if sha256 not in self.unhashed:
            return self.candidates[sha256].file
        with self._hashing:
            if sha256 not in self._hashed:
                candidate = self.unhashed[sha256]
                file = fetch_and_hash(candidate.file, self.client, self.workspace)
                wheel_metadata(candidate.index, file, self.client, self.workspace)
                self._hashed[sha256] = file
                self.candidates[file.sha256 or ""] = Candidate(index=candidate.index, file=file)
            return self._hashed[sha256]

    def __bool__(self) -> bool:
        return bool(self.pins) or bool(self.sources)

    def _metadata_without_hash(self, sha256: str) -> bytes:
        """Return the METADATA of a file without a hash, uncached: its URL may serve other bytes tomorrow."""
        candidate = self.unhashed[sha256]
        index, file = candidate.index, candidate.file
        try:
            content = _beside(file, self.client) or with_archive(RemoteFile(file.url, self.client.get), metadata_of)
            check_metadata(content, file.filename)
        except NoRangesError:
            return wheel_metadata(index, self.hashed(sha256), self.client, self.workspace)
        except requests.RequestException as error:
            raise http.network_error(error, file.url, f"{file.filename} cannot be read") from error
        except FLAWS as error:
            raise _unfit(index, file, f"it is not a valid wheel: {error}") from error
        return content

    def _locked_or(self, index: Index, file: IndexFile) -> IndexFile:
        if file.sha256 is None:
            return self._locked_without_hash(index, file)
        locked, url = self.locked.get(file.filename, (file.sha256, file.url))
        if locked == file.sha256 or locked is None:
            return file
        in_wheelhouse = self.workspace.wheel(locked, file.filename).is_file() or any(
            vaulted(locked, file.filename, self.client.config)
        )
        self.changed[file.filename] = ChangedFile(
            index=index.name,
            filename=file.filename,
            locked=locked,
            served=file.sha256 or "",
            in_wheelhouse=in_wheelhouse,
        )
        return replace(file, sha256=locked, url=url, metadata=None) if in_wheelhouse else file

    def _locked_without_hash(self, index: Index, file: IndexFile) -> IndexFile:
        """Return a file without a hash with the locked one, which is checked when it is fetched, or with a stand-in."""
        if file.filename in self.locked:
            return replace(file, sha256=self.locked[file.filename][0], metadata=None)
        key = hashlib.sha256(file.url.encode()).hexdigest()
        named = replace(file, sha256=key)
        self.unhashed[key] = Candidate(index=index, file=named)
        return named


def is_foreign(index: Index, file: IndexFile) -> bool:
    """Return whether a file is another index's, which this one lists too."""
    return any(component in urlsplit(file.url).path for component in index.foreign_files)


def own_wheels(index: Index, files: Iterable[IndexFile]) -> list[IndexFile]:
    """Return the index's own wheels: those with a hash, or all of them where no file has one."""
    own = [file for file in files if file.filename.endswith(".whl") and not is_foreign(index, file)]
    return [file for file in own if file.sha256] or own


def fetch_and_hash(file: IndexFile, client: IndexClient, workspace: Workspace) -> IndexFile:
    """Fetch a wheel whose index gives no hash into the wheelhouse, and return it with its sha256 and size.

    Raises:
        NetworkError: it cannot be fetched.
        DiskError: the disk is full.
    """
    with scratch(workspace.cache) as folder:
        partial = folder / "wheel"
        with disk_errors(partial), partial.open("wb") as content:
            blob = PartialBlob(content.write)
            try:
                receive(lambda headers: client.get(file.url, headers=headers), blob, http.Retry(tries=3))
            except requests.RequestException as error:
                raise http.network_error(error, file.url, f"{file.filename} cannot be downloaded") from error
        target = workspace.wheel(blob.sha256, file.filename)
        download_once(target, partial.rename, lambda: None)
    return replace(file, sha256=blob.sha256, size=blob.size, metadata=None)


def wheel_metadata(index: Index, file: IndexFile, client: IndexClient, workspace: Workspace) -> bytes:
    """Return a wheel's METADATA, which is cached.

    Raises:
        IntegrityError: the file is not a wheel, or not the one of its name.
        NetworkError: it cannot be read.
    """
    path = workspace.metadata(file.sha256 or "")
    if path.is_file():
        return path.read_bytes()
    content = (
        vaulted_metadata(file.sha256 or "", file.filename, client.config)
        or _beside(file, client)
        or read_wheel(index, file, client, workspace, metadata_of)
    )
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
    """Return the result of `read` for a wheel in the wheelhouse or a vault, else on the server, by ranges if possible.

    Raises:
        IntegrityError: the file is not a wheel.
        NetworkError: it cannot be read.
    """
    local = workspace.wheel(file.sha256 or "", file.filename)
    if (source := local_path(file.url)) and not local.is_file():
        local = source
    try:
        if not local.is_file():
            content = read_vaulted(file.sha256 or "", file.filename, local, client.config, read)
            if content is not None:
                return content
            try:
                return with_archive(RemoteFile(file.url, client.get), read)
            except NoRangesError:
                download_once(local, partial(_fetch_whole, index, file, client), lambda: None)
        with local.open("rb") as wheel:
            return with_archive(wheel, read)
    except requests.RequestException as error:
        raise http.network_error(error, file.url, f"{file.filename} cannot be read") from error
    except FLAWS as error:
        raise _unfit(index, file, f"it is not a valid wheel: {error}") from error


def _beside(file: IndexFile, client: IndexClient) -> bytes | None:
    """Return the METADATA that the index serves beside a wheel, or None if it does not."""
    if file.metadata is None:
        return None
    url = urlsplit(file.url)
    try:
        with client.get(url._replace(path=f"{url.path}.metadata").geturl()) as answer:
            answer.raise_for_status()
            content = answer_bodies.read_body(answer, LONGEST_METADATA)
    except requests.RequestException:
        return None
    return content if content and file.metadata in ("", hashlib.sha256(content).hexdigest()) else None


def _fetch_whole(index: Index, file: IndexFile, client: IndexClient, path: Path) -> None:
    """Fetch a wheel of an index that does not serve ranges."""
    download(
        lambda content: receive(lambda headers: client.get(file.url, headers=headers), content, http.Retry(tries=3)),
        lambda _: _unfit(index, file, "its bytes do not have the index's sha256"),
        path,
        Expected(sha256=file.sha256),
        Progress(),
    )


def _unfit(index: Index, file: IndexFile, flaw: str) -> IntegrityError:
    name, version, *_ = [*file.filename.split("-"), ""]
    plain = re.sub(r"[-_.]+", "-", name).lower()
    return IntegrityError(
        f"{file.filename} of the index {index.name} cannot be used: {flaw}",
        where=scrub(file.url),
        hint=f'exclude it with `constraints = ["{plain}!={version}"]` in the recipe, and tell the index\'s operator',
    )

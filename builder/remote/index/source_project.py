"""Source archives of a package that is built: uv sees a wheel in place of each, and reads the METADATA only.

uv alone would build an archive to learn its requirements, on a machine that may not be the target's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import requests
from packaging.utils import InvalidSdistFilename, parse_sdist_filename

from builder.errors import IntegrityError, NoWheelsError
from builder.host.concurrency import Progress
from builder.remote import http
from builder.remote.addresses import scrub
from builder.remote.download import Expected, download, download_once, local_path, receive
from builder.remote.index.index_view import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from packaging.version import Version

    from builder.host.paths import Workspace
    from builder.remote.download import PartialFile
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.listing import Index, IndexFile


@dataclass(slots=True)
class ArchiveProject:
    """The source archives of a package on an index; `describe` returns the METADATA of one of them."""

    name: str
    index: Index
    client: IndexClient
    workspace: Workspace
    describe: Callable[[Path, str], bytes]
    archives: dict[str, IndexFile] = field(default_factory=dict)

    def candidates(self) -> tuple[Candidate, ...]:
        """Return a candidate for each archive with a hash.

        Raises:
            NetworkError: the index does not answer.
            NoWheelsError: it has no source archive of the package.
        """
        page = self.client.page(self.index, self.name) if self.index.addresses else None
        files = {version: file for file in (page.files if page else ()) if (version := archive_version(file))}
        if not files:
            hint = "name another source in `source` of [[packages.build]]"
            message = f"the index {self.index.name} has no source archive of {self.name}"
            raise NoWheelsError(message, where=page.url if page else self.name, hint=hint)
        self.archives.update({file.sha256 or "": file for file in files.values()})
        return tuple(self._candidate(file, version) for version, file in files.items())

    def _candidate(self, file: IndexFile, version: Version) -> Candidate:
        named = replace(file, filename=f"{self.name.replace('-', '_')}-{version}-py3-none-any.whl", metadata="")
        return Candidate(index=self.index, file=named, read=partial(self._metadata, file, str(version)))

    def _metadata(self, file: IndexFile, version: str) -> bytes:
        return self.describe(fetch_archive(file, self.client, self.workspace), version)


def archive_version(file: IndexFile) -> Version | None:
    """Return the version of a source archive that can be locked: one with a hash; None for any other file."""
    try:
        _, version = parse_sdist_filename(file.filename)
    except InvalidSdistFilename:
        return None
    return version if file.sha256 else None


def fetch_archive(file: IndexFile, client: IndexClient, workspace: Workspace) -> Path:
    """Return a source archive in the cache, where it is fetched once.

    Raises:
        NetworkError: it cannot be fetched.
        IntegrityError: its bytes are not those of its hash.
        DiskError: the disk is full.
    """
    target = workspace.source(file.sha256 or "", file.filename)
    if not target.is_file():
        expected = Expected(sha256=file.sha256, size=file.size)

        def fetch(path: Path) -> None:
            download(partial(_receive, file, client), partial(_mismatch, file), path, expected, Progress())

        download_once(target, fetch, lambda: None)
    return target


def _receive(file: IndexFile, client: IndexClient, content: PartialFile) -> None:
    if (source := local_path(file.url)) is not None:
        with source.open("rb") as opened:
            content.copy_from(opened)
        return
    try:
        receive(lambda headers: client.get(file.url, headers=headers), content, http.Retry(tries=3))
    except requests.RequestException as error:
        raise http.network_error(error, file.url, f"{file.filename} cannot be downloaded") from error


def _mismatch(file: IndexFile, content: PartialFile) -> IntegrityError:
    return IntegrityError(
        f"{file.filename} is not the file that its index states: {content.flaw()}",
        where=scrub(file.url),
        hint="find out why, then run `jbuild lock` to take the new one",
    )

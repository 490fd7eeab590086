"""Files that builds need besides wheels: source archives and Debian packages, by sha256 in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import requests

from builder.errors import IntegrityError, JbuildError
from builder.host.concurrency import map_with_progress
from builder.lock.source_metadata import archive_name
from builder.remote import http
from builder.remote.download import Expected, download, download_once, receive
from builder.remote.index.logins import Logins
from builder.remote.vault.vaulted_files import fetch_from_vault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.paths import Workspace
    from builder.host.session import Session
    from builder.model.builds import BuildSource
    from builder.remote.download import PartialFile

    _Get = Callable[..., requests.Response]

_PARALLEL = 8
_MISSING = (404, 410)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteInput:
    """A file that a lock names."""

    filename: str
    url: str
    sha256: str
    size: int | None


def archive_input(source: BuildSource) -> RemoteInput:
    """Return the archive of a locked source, under the name that the lock's own reader of archives gives it."""
    name = archive_name(source.location)
    return RemoteInput(filename=name, url=source.location, sha256=source.sha256, size=source.size)


def input_path(workspace: Workspace, sha256: str, filename: str) -> Path:
    """Return the file of an input in the cache."""
    return workspace.source(sha256, filename)


def fetch_inputs(files: Sequence[RemoteInput], session: Session) -> tuple[Path, ...]:
    """Download missing files, and return the paths of all.

    Raises:
        NetworkError: a file cannot be downloaded.
        IntegrityError: its bytes are not the locked ones.
        DiskError: the disk is full.
    """
    paths = tuple(input_path(session.workspace, file.sha256, file.filename) for file in files)
    missing = [file for file, path in zip(files, paths, strict=True) if not path.is_file()]
    if not missing:
        return paths
    get = Logins(session.config, http.session(session.config)).get
    total = sum(file.size or 0 for file in missing) or None
    with session.console.task(f"downloading {len(missing)} files of the build", total) as task:
        fetch = partial(_fetch, get, session)
        map_with_progress(fetch, sorted(missing, key=lambda file: -(file.size or 0)), task.advance, _PARALLEL)
    return paths


def _fetch(get: _Get, session: Session, file: RemoteInput, progress: Progress) -> None:
    target, expected = input_path(session.workspace, file.sha256, file.filename), Expected(sha256=file.sha256)

    def fill(path: Path) -> None:
        if fetch_from_vault(file.sha256, file.filename, session, lambda found: found.fetch(path, progress)):
            return
        download(partial(_receive, file, get), partial(_mismatch, file), path, expected, progress)

    download_once(target, fill, progress.token.check)


def _receive(file: RemoteInput, get: _Get, content: PartialFile) -> None:
    try:
        retry = http.Retry(sleep=content.progress.token.sleep)
        receive(lambda headers: get(file.url, headers=headers), content, retry)
    except requests.RequestException as error:
        raise _unreachable(file, error) from error


def _unreachable(file: RemoteInput, error: requests.RequestException) -> JbuildError:
    missing = error.response is not None and error.response.status_code in _MISSING
    hint = "the server no longer has this file: run `jbuild lock` again to take its successor" if missing else None
    return http.network_error(error, file.url, f"{file.filename} cannot be downloaded", hint)


def _mismatch(file: RemoteInput, content: PartialFile) -> IntegrityError:
    return IntegrityError(
        f"{file.filename} is not the file that was locked: {content.flaw()}",
        where=file.url,
        hint="the server has another file under this name; find out why, then run `jbuild lock` to take the new one",
    )

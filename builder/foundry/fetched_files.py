"""Files that builds need besides wheels: source archives and Debian packages, by sha256 in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import requests

from builder.errors import IntegrityError, JbuildError
from builder.host.concurrency import map_with_progress
from builder.remote import http
from builder.remote.download import Expected, download, download_once, receive
from builder.remote.index.logins import Logins
from builder.remote.vault.vaulted_files import vaulted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.paths import Workspace
    from builder.host.session import Session
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
        if _from_vault(file, path, session, progress):
            return
        download(partial(_receive, file, get), partial(_mismatch, file), path, expected, progress)

    download_once(target, fill, progress.token.check)


def _from_vault(file: RemoteInput, path: Path, session: Session, progress: Progress) -> bool:
    """Fetch a file from the first vault that has it; return whether one did."""
    for found in vaulted(file.sha256, file.filename, session.config):
        try:
            found.fetch(path, progress)
        except JbuildError as error:
            # Another vault, or the server, has the same bytes.
            session.console.warn(f"{error.message} ({error.where})")
            continue
        return True
    return False


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

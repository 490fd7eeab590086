"""The wheelhouse: wheels by sha256, each downloaded once, in parallel, resumed and verified."""

from __future__ import annotations

from email.parser import BytesHeaderParser
from functools import partial
from typing import TYPE_CHECKING

import requests

from builder.errors import IntegrityError, LockError, NetworkError
from builder.host.concurrency import map_with_progress
from builder.remote import http
from builder.remote.download import Expected, download, download_once, local_path, receive
from builder.remote.index.listing import addresses
from builder.remote.index.logins import Logins
from builder.remote.index.remote_wheel import FLAWS, metadata_of, with_archive
from builder.remote.vault.vaulted_files import fetch_from_vault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.session import Session
    from builder.model.wheels import LockedWheel
    from builder.remote.download import PartialFile

    _Get = Callable[..., requests.Response]
    _Say = Callable[[str], object]

_PARALLEL = 8
_MISSING = (404, 410)
# The fields of METADATA that a solver uses.
_DECISIVE = ("Name", "Version", "Requires-Python", "Requires-Dist", "Provides-Extra")
_REFUSED = ".refused"


def fetch(
    wheels: Sequence[LockedWheel], session: Session, *, on_fetched: Callable[[LockedWheel], None] | None = None
) -> int:
    """Download missing wheels into the wheelhouse and return the number of bytes.

    `on_fetched` is called with each wheel as soon as it is in the wheelhouse, with those already there first.

    Raises:
        NetworkError: a wheel cannot be downloaded.
        IntegrityError: its bytes are not the locked ones, or its METADATA differs from the index's at lock time.
        DiskError: the disk is full.
    """
    wheel_path = session.workspace.wheel
    missing = [wheel for wheel in wheels if not wheel_path(wheel.sha256, wheel.filename).is_file()]
    for wheel in wheels:
        if on_fetched and wheel not in missing:
            on_fetched(wheel)
    if not missing:
        return 0
    get = Logins(session.config, http.session(session.config)).get

    def fetch_one(wheel: LockedWheel, progress: Progress) -> int:
        target = wheel_path(wheel.sha256, wheel.filename)
        fetched = download_once(
            target, lambda path: _fetch_wheel(wheel, path, get, session, progress), progress.token.check
        )
        if on_fetched:
            on_fetched(wheel)
        return target.stat().st_size if fetched else 0

    total = sum(wheel.size or 0 for wheel in missing) or None
    with session.console.task(f"downloading {len(missing)} wheels", total) as task:
        # Largest first, so that no large one is left for the end.
        return sum(map_with_progress(fetch_one, sorted(missing, key=lambda w: -(w.size or 0)), task.advance, _PARALLEL))


def _fetch_wheel(wheel: LockedWheel, path: Path, get: _Get, session: Session, progress: Progress) -> None:
    """Fetch a wheel to `path` from its index or the configured mirrors, and check it."""
    expected, failures = Expected(sha256=wheel.sha256), list[NetworkError]()

    def say(why: str) -> None:
        session.console.say(f"{wheel.filename}: {why}")

    if not fetch_from_vault(wheel.sha256, wheel.filename, session, lambda found: found.fetch(path, progress)):
        for address in addresses(wheel.url, session.config.index_mirrors):
            if address.vault:
                continue
            try:
                download(
                    partial(_receive, wheel, address.url, get, say), partial(_mismatch, wheel), path, expected, progress
                )
                break
            except NetworkError as error:
                failures.append(error)
        else:
            raise failures[0] if failures else _in_no_vault(wheel)
    # uv has read the METADATA of other wheels itself, without the cached copy.
    if wheel.index:
        _check_metadata(wheel, path, session.workspace.metadata(wheel.sha256))


def _in_no_vault(wheel: LockedWheel) -> NetworkError:
    hint = (
        "where an index answers, run `jbuild vault RECIPE --output FOLDER` again; "
        "or set `fallback = true` for the vault in [[index-mirrors]] of jbuild.toml"
    )
    return NetworkError(f"no vault has {wheel.filename}", where=wheel.url, hint=hint)


def _receive(wheel: LockedWheel, url: str, get: _Get, say: _Say, content: PartialFile) -> None:
    """Append the missing bytes of a wheel at an address, or in a folder."""
    if source := local_path(url):
        try:
            with source.open("rb") as file:
                content.copy_from(file)
        except FileNotFoundError as error:
            hint = "put the wheel back, or run `jbuild lock` again"
            raise LockError(f"{wheel.filename} is no longer there", where=str(source), hint=hint) from error
        return
    try:
        retry = http.Retry(sleep=content.progress.token.sleep, on_retry=say)
        receive(lambda headers: get(url, headers=headers), content, retry)
    except requests.RequestException as error:
        missing = error.response is not None and error.response.status_code in _MISSING
        hint = "the index no longer has this file: run `jbuild lock` again, or put it into the wheelhouse"
        failure = f"{wheel.filename} cannot be downloaded"
        raise http.network_error(error, url, failure, hint if missing else None) from error


def _mismatch(wheel: LockedWheel, content: PartialFile) -> IntegrityError:
    return IntegrityError(
        f"{wheel.filename} is not the file that was locked: {content.flaw()}",
        where=wheel.url,
        hint="the index serves another file under this name; find out why, then run `jbuild lock` to take the new one",
    )


def _check_metadata(wheel: LockedWheel, path: Path, cached: Path) -> None:
    """Refuse a wheel whose METADATA differs from what the index served at lock time, which is at `cached`.

    No hash covers METADATA that is read by ranges or served beside a wheel. A cached copy that differs is set aside,
    so that locking reads it again; until then the wheel stays refused.

    Raises:
        IntegrityError: the METADATA differs.
    """
    refused = cached.with_suffix(_REFUSED)
    if cached.is_file():
        if _same(cached.read_bytes(), path):
            refused.unlink(missing_ok=True)
            return
        cached.rename(refused)
    if refused.is_file():
        raise IntegrityError(
            f"the METADATA of {wheel.filename} differs from what the index served at lock time",
            where=wheel.url,
            hint="run `jbuild lock RECIPE --force` to lock its present METADATA, and tell the index's operator",
        )


def _same(served: bytes, path: Path) -> bool:
    with path.open("rb") as file:
        try:
            actual = with_archive(file, metadata_of)
        except FLAWS:
            return False
    return served == actual or _decisive(served) == _decisive(actual)


def _decisive(content: bytes) -> dict[str, list[str]]:
    headers = BytesHeaderParser().parsebytes(content)
    return {name: sorted(" ".join(str(text).split()) for text in headers.get_all(name, ())) for name in _DECISIVE}

"""The wheelhouse: each wheel once, by sha256, fetched in parallel, resumed and verified."""

from __future__ import annotations

from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import compat32
from functools import partial
from typing import TYPE_CHECKING

import requests

from builder.errors import IntegrityError, LockError, NetworkError
from builder.host.concurrency import map_with_progress
from builder.host.paths import wheel_file
from builder.remote import http
from builder.remote.download import Expected, download, download_once, local_path, receive
from builder.remote.index.logins import Logins
from builder.remote.index.mirrors import addresses
from builder.remote.index.remote_wheel import FLAWS, metadata_of, with_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.session import Session
    from builder.model.locks import LockedWheel
    from builder.remote.download import PartialFile

    _Get = Callable[..., requests.Response]

_PARALLEL = 8
# Answers which mean that a file is not there any more.
_GONE = (404, 410)
# What a solver goes by.
_DECISIVE = ("Name", "Version", "Requires-Python", "Requires-Dist", "Provides-Extra")
_REFUSED = ".refused"


def path_of(wheel: LockedWheel, house: Path) -> Path:
    """Return where a wheel lies in the wheelhouse."""
    return wheel_file(house, wheel.sha256, wheel.filename)


def fetch(
    wheels: Sequence[LockedWheel], session: Session, *, on_fetched: Callable[[LockedWheel], None] | None = None
) -> int:
    """Bring all wheels into the wheelhouse and return how many bytes were fetched.

    `on_fetched` is called for every wheel as soon as it is there, those that were there before first.

    Raises:
        NetworkError: a wheel cannot be had.
        IntegrityError: its bytes are not the locked ones, or say something else than what it was locked by.
        DiskError: the disk is full.
    """
    house = session.workspace.wheels
    missing = [wheel for wheel in wheels if not path_of(wheel, house).is_file()]
    for wheel in wheels:
        if on_fetched and wheel not in missing:
            on_fetched(wheel)
    if not missing:
        return 0
    get = partial(Logins(session.config).get, http.session(session.config), stream=True)

    def fetch_one(wheel: LockedWheel, progress: Progress) -> int:
        target = path_of(wheel, house)
        fetched = download_once(target, lambda path: _bring(wheel, path, get, session, progress), progress.token.check)
        if on_fetched:
            on_fetched(wheel)
        return target.stat().st_size if fetched else 0

    total = sum(wheel.size or 0 for wheel in missing) or None
    with session.console.task(f"downloading {len(missing)} wheels", total) as task:
        # The largest first: the last to end should be a small one.
        return sum(map_with_progress(fetch_one, sorted(missing, key=lambda w: -(w.size or 0)), task.advance, _PARALLEL))


def _bring(wheel: LockedWheel, path: Path, get: _Get, session: Session, progress: Progress) -> None:
    """Fetch a wheel to `path`, from its index, else from the mirrors that the configuration names; check it."""
    expected, failures = Expected(sha256=wheel.sha256), list[NetworkError]()
    for address in addresses(wheel.url, session.config.index_mirrors):
        try:
            download(_WheelFetcher(wheel=wheel, url=address.url, get=get), path, expected, progress)
            break
        except NetworkError as error:
            failures.append(error)
    else:
        raise failures[0]
    # Of other wheels uv has read the metadata itself: the cached copy has decided nothing.
    if wheel.index:
        _check_metadata(wheel, path, session.workspace.metadata(wheel.sha256))


@dataclass(frozen=True, kw_only=True, slots=True)
class _WheelFetcher:
    """A wheel at an address, or in a folder."""

    wheel: LockedWheel
    url: str
    get: _Get

    def fetch(self, content: PartialFile) -> None:
        if source := local_path(self.url):
            try:
                with source.open("rb") as file:
                    content.copy_from(file)
            except FileNotFoundError as error:
                hint = "put the wheel back, or run `jbuild lock` again"
                raise LockError(f"{self.wheel.filename} is no longer there", where=str(source), hint=hint) from error
            return
        try:
            retry = http.Retry(sleep=content.progress.token.sleep)
            receive(lambda headers: self.get(self.url, headers=headers), content, retry)
        except requests.RequestException as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: requests.RequestException) -> NetworkError:
        failure = http.network_error(error, self.url)
        message = f"{self.wheel.filename} cannot be downloaded: {failure.message}"
        gone = error.response is not None and error.response.status_code in _GONE
        hint = "the index no longer has this file: run `jbuild lock` again, or put it into the wheelhouse"
        return NetworkError(message, where=failure.where, hint=hint if gone else failure.hint)

    def mismatch(self, content: PartialFile) -> IntegrityError:
        return IntegrityError(
            f"{self.wheel.filename} is not the file that was locked: {content.flaw()}",
            where=self.wheel.url,
            hint="the index serves another file under this name; "
            "find out why, then run `jbuild lock` to take the new one",
        )


def _check_metadata(wheel: LockedWheel, path: Path, kept: Path) -> None:
    """Refuse a wheel, whole at `path`, whose METADATA differs from what the index served at lock time, at `kept`.

    METADATA that is read by ranges, or served beside a wheel, is covered by no hash; only the whole wheel is. The
    cached copy is set aside then, so that locking reads it again; until that has been done, the wheel stays refused.

    Raises:
        IntegrityError: it does.
        DiskError: that cannot be noted.
    """
    refused = kept.with_suffix(_REFUSED)
    if kept.is_file():
        if _same(kept.read_bytes(), path):
            refused.unlink(missing_ok=True)
            return
        kept.rename(refused)
    if refused.is_file():
        raise IntegrityError(
            f"{wheel.filename} says other things of itself than what the index said of it when the cell was locked",
            where=wheel.url,
            hint="run `jbuild lock RECIPE --force` to lock by what it says now, and tell whoever runs the index",
        )


def _same(said: bytes, path: Path) -> bool:
    with path.open("rb") as file:
        try:
            own = with_archive(file, metadata_of)
        except FLAWS:
            # Whatever is wrong with it, it is not what it was said to be.
            return False
    return said == own or _decisive(said) == _decisive(own)


def _decisive(content: bytes) -> dict[str, list[str]]:
    headers = BytesParser(policy=compat32).parsebytes(content, headersonly=True)
    return {name: sorted(" ".join(str(text).split()) for text in headers.get_all(name, ())) for name in _DECISIVE}

"""The wheelhouse: every wheel once, by sha256, fetched in parallel, resumed and verified."""

from __future__ import annotations

import functools
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import requests
from filelock import FileLock

from builder import http
from builder.errors import IntegrityError, LockError, NetworkError
from builder.index.logins import Logins
from builder.index.places import addresses
from builder.parallel import Threads
from builder.wheels.metadata import check_metadata
from builder.workspace import disk_errors, sha256_of, wheel_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.config import IndexMirror
    from builder.resolve.model import LockedWheel
    from builder.session import Session

    _Get = Callable[..., requests.Response]

_PARALLEL = 8
_BLOCK = 1 << 20
_PARTIAL_CONTENT = 206
_RANGE_UNSATISFIABLE = 416
# Answers which mean that a file is not there any more.
_GONE = (404, 410)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """How files are fetched: a GET request with the server's log-in, and where else indexes can be asked."""

    get: _Get
    mirrors: tuple[IndexMirror, ...]


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
    total = sum(wheel.size or 0 for wheel in missing) or None
    get = functools.partial(Logins(session.config).get, http.session(session.config), stream=True)
    line = _Line(get=get, mirrors=session.config.index_mirrors)
    title = f"downloading {len(missing)} wheels"
    stopped = threading.Event()
    with session.console.task(title, total) as task, Threads(_PARALLEL) as pool:

        def advance(amount: float) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt
            task.advance(amount)

        def one(wheel: LockedWheel) -> int:
            # Of other wheels uv has read the metadata itself: what is kept of them has decided nothing.
            kept = session.workspace.metadata(wheel.sha256) if wheel.index else None
            count = _fetch_one(wheel, path_of(wheel, house), line, advance, kept)
            if on_fetched:
                on_fetched(wheel)
            return count

        # The largest first: the last to end should be a small one.
        running = [pool.submit(one, wheel) for wheel in sorted(missing, key=lambda w: -(w.size or 0))]
        try:
            return sum(future.result() for future in running)
        except BaseException:
            # Other downloads end at their next block: nobody waits for gigabytes after a failure.
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_one(
    wheel: LockedWheel, target: Path, line: _Line, on_bytes: Callable[[float], None], kept: Path | None
) -> int:
    partial = target.parent / "partial"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(target), FileLock(target.parent / "lock"):
        if target.is_file():
            return 0
        if "://" not in wheel.url or wheel.url.startswith("file://"):
            _copy(wheel, partial)
        else:
            _download(wheel, partial, line, on_bytes)
        _verify(wheel, partial)
        if kept:
            check_metadata(wheel, partial, kept)
        partial.rename(target)
        return target.stat().st_size


def _copy(wheel: LockedWheel, partial: Path) -> None:
    source = Path(unquote(urlsplit(wheel.url).path)) if "://" in wheel.url else Path(wheel.url)
    try:
        shutil.copyfile(source, partial)
    except FileNotFoundError as error:
        hint = "put the wheel back, or run `jbuild lock` again"
        raise LockError(f"{wheel.filename} is no longer there", where=str(source), hint=hint) from error


def _download(wheel: LockedWheel, partial: Path, line: _Line, on_bytes: Callable[[float], None]) -> None:
    """Download a wheel beside its place, from its index, else from the mirrors that the configuration names."""
    failures = []
    for address in addresses(wheel.url, line.mirrors):
        try:
            _download_from(address.url, wheel, partial, line.get, on_bytes)
        except NetworkError as error:
            failures.append(error)
            continue
        return
    raise failures[0]


def _download_from(url: str, wheel: LockedWheel, partial: Path, get: _Get, on_bytes: Callable[[float], None]) -> None:
    """Download a wheel beside its place; what an earlier try or run left is gone on from."""

    def have() -> int:
        return partial.stat().st_size if partial.exists() else 0

    def bring() -> None:
        def attempt() -> None:
            _attempt(get, url, partial, on_bytes, have())

        http.Retry().run(attempt, progress=have)

    begun = have()
    on_bytes(begun)
    try:
        bring()
        if begun and sha256_of(partial) != wheel.sha256:
            # What an earlier run left was not the beginning of this file.
            on_bytes(-have())
            partial.unlink()
            bring()
    except requests.RequestException as error:
        on_bytes(-have())
        raise _unavailable(wheel, url, error) from error


def _unavailable(wheel: LockedWheel, url: str, error: requests.RequestException) -> NetworkError:
    failure = http.network_error(error, url)
    message = f"{wheel.filename} cannot be downloaded: {failure.message}"
    if error.response is not None and error.response.status_code in _GONE:
        hint = "the index no longer has this file: run `jbuild lock` again, or put it into the wheelhouse"
        return NetworkError(message, where=failure.where, hint=hint)
    return NetworkError(message, where=failure.where, hint=failure.hint)


def _attempt(get: _Get, url: str, partial: Path, on_bytes: Callable[[float], None], have: int) -> None:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with get(url, headers=headers) as answer:
        if have and answer.status_code == _RANGE_UNSATISFIABLE:
            # Everything was there already, or what was there was not this file: the checksum tells.
            return
        answer.raise_for_status()
        resumed = answer.status_code == _PARTIAL_CONTENT
        if not resumed:
            on_bytes(-have)
        with partial.open("ab" if resumed else "wb") as file:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                on_bytes(len(block))


def _verify(wheel: LockedWheel, partial: Path) -> None:
    found = sha256_of(partial)
    if found == wheel.sha256:
        return
    partial.unlink()
    raise IntegrityError(
        f"{wheel.filename} is not the file that was locked: sha256 {found}, locked {wheel.sha256}",
        where=wheel.url,
        hint="the index serves another file under this name; find out why, then run `jbuild lock` to take the new one",
    )

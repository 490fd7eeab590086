"""Asks package indexes for their pages: with log-ins, retries, mirrors, and a memory of since when one fails."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import requests

from builder import http, process
from builder.errors import JbuildError, NetworkError
from builder.index.model import Address, Index, Page
from builder.index.page import ACCEPT, parse
from builder.workspace import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.config import Config
    from builder.session import Session

_LONGEST_PAGE = 64 << 20
"""Bytes; the longest page of the public index is a few million."""
_SLOWEST_PAGE_S = 120.0
_BLOCK = 1 << 16
_MISSING = (404, 410)
_REFUSED = (401, 403)
_KEYRING_S = 20.0


class IndexUnreachableError(NetworkError):
    """Neither an index nor any of its mirrors gave a usable answer."""


def client_of(session: Session) -> IndexClient:
    """Return the run's one client: whatever its cells share is asked for once."""
    states = session.workspace.index_states
    return session.share(IndexClient, lambda: IndexClient(config=session.config, states=states))


class _UnusableError(requests.RequestException):
    """An answer that is no package page; trying again may help, as with other faults of servers."""


@dataclass(slots=True)
class IndexClient:
    """Asks indexes. Threads may share it; each page is asked for once.

    `states` is a folder that remembers since when an index fails, across runs.
    """

    config: Config
    states: Path
    retry: http.Retry = field(default_factory=lambda: http.Retry(tries=4))
    _session: requests.Session = field(init=False)
    _pages: dict[tuple[str, str], Page | JbuildError | None] = field(default_factory=dict)
    _locks: dict[tuple[str, str], threading.Lock] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _logins: dict[str, tuple[str, str]] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._session = http.session(self.config, http.Patience(connect_s=10.0, read_s=30.0))

    def page(self, index: Index, project: str) -> Page | None:
        """Return what an index lists of a project (by its normalised name), or None if it does not know it.

        Raises:
            IndexUnreachableError: the index and its mirrors did not answer as an index should.
        """
        key = (index.name, project)
        with self._mutex:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._pages:
                try:
                    self._pages[key] = self._ask(index, project)
                except JbuildError as error:
                    self._pages[key] = error
            found = self._pages[key]
        if isinstance(found, JbuildError):
            raise found
        return found

    def login(self, index: str, url: str) -> tuple[str, str] | None:
        """Return the user and password for an address of an index (by its name), if any are known besides netrc's.

        They come from the address itself or from uv's variables for the index of that name.
        """
        parts = urlsplit(url)
        if parts.username:
            return parts.username, parts.password or ""
        name = re.sub(r"[^A-Za-z0-9]", "_", index).upper()
        user, password = (os.environ.get(f"UV_INDEX_{name}_{part}") for part in ("USERNAME", "PASSWORD"))
        if user or password:
            return user or "", password or ""
        return self._logins.get(parts.netloc)

    def _ask(self, index: Index, project: str) -> Page | None:
        reasons: list[str] = []
        causes: list[requests.RequestException] = []
        for address in index.addresses:
            url = f"{address.url.rstrip('/')}/{project}/"
            if address.url in self._failed:
                # It has used up its tries for another project of this run.
                reasons.append(f"{http.scrub(url)}: {self._failed[address.url]}")
                continue
            try:
                page = self._ask_address(index, address, project, url)
            except requests.RequestException as error:
                reason = str(error) if isinstance(error, _UnusableError) else http.reason(error)
                reasons.append(f"{http.scrub(url)}: {reason}")
                causes.append(error)
                if http.is_transient(error) or isinstance(error, _UnusableError):
                    self._failed[address.url] = reason
                continue
            answered(self.states, index.name)
            return page
        raise _unreachable(index, project, reasons, failing_since(self.states, index.name, note=True), causes)

    def _ask_address(self, index: Index, address: Address, project: str, url: str) -> Page | None:
        def attempt() -> Page | None:
            with self.get(index.name, url, {"Accept": ACCEPT}) as answer:
                if answer.status_code in _MISSING:
                    return None
                answer.raise_for_status()
                content = _read(answer)
                try:
                    files = parse(content, answer.headers.get("Content-Type", ""), answer.url)
                except ValueError as error:
                    raise _UnusableError(str(error)) from error
            shown = http.scrub(without_login(answer.url))
            return Page(index=index.name, project=project, url=shown, files=files, stand_in=address.stand_in)

        return _patient(self.retry, attempt)

    def get(self, index: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Ask for a page or a file of an index (by its name), with its log-in; the body is yet to be read.

        Raises:
            requests.RequestException: no answer. An answer of any status is returned.
        """
        bare, auth = without_login(url), self.login(index, url)
        answer = self._session.get(bare, headers=headers, stream=True, auth=auth)
        if answer.status_code in _REFUSED and auth is None and (found := _from_keyring(bare)):
            answer.close()
            self._logins[urlsplit(bare).netloc] = found
            answer = self._session.get(bare, headers=headers, stream=True, auth=found)
        return answer


def _patient(retry: http.Retry, attempt: Any) -> Page | None:
    """Try again after unusable answers too: a proxy's page of apology is often gone a moment later."""
    waits = iter(_waits(retry))
    while True:
        try:
            page: Page | None = retry.run(attempt)
        except _UnusableError:
            wait = next(waits, None)
            if wait is None:
                raise
            retry.sleep(wait)
        else:
            return page


def _waits(retry: http.Retry) -> Iterator[float]:
    yield from (retry.first_wait_s * 2**n for n in range(min(2, retry.tries - 1)))


def _read(answer: requests.Response) -> bytes:
    """Return a body that is neither endless nor endlessly slow."""
    size = int(answer.headers.get("Content-Length") or 0)
    content, begun = bytearray(), time.monotonic()
    if size <= _LONGEST_PAGE:
        for block in answer.iter_content(_BLOCK):
            content += block
            if len(content) > _LONGEST_PAGE:
                break
            if time.monotonic() - begun > _SLOWEST_PAGE_S:
                raise requests.exceptions.ReadTimeout(response=answer)
        else:
            return bytes(content)
    raise _UnusableError(f"its page is longer than {_LONGEST_PAGE >> 20} MiB")


def without_login(url: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _from_keyring(url: str) -> tuple[str, str] | None:
    """Ask the `keyring` program, if there is one, as pip and uv do."""
    if not process.find_program("keyring"):
        return None
    try:
        done = process.run(["keyring", "--mode", "creds", "get", url, ""], timeout_s=_KEYRING_S, check=False)
    except JbuildError:
        # A keyring that is locked or asks for a password on a terminal knows nothing here.
        return None
    user, _, password = done.stdout.rstrip("\n").partition("\n")
    return (user, password) if done.code == 0 and user else None


def _unreachable(
    index: Index, project: str, reasons: list[str], since: str | None, causes: list[requests.RequestException]
) -> IndexUnreachableError:
    mirrors = len(index.addresses) - 1
    also = f", nor {'its mirror' if mirrors == 1 else f'any of its {mirrors} mirrors'}" if mirrors else ""
    failing = f"; it has been failing since {since}" if since else ""
    untrusted = any(map(http.is_untrusted, causes))
    refused = any(c.response is not None and c.response.status_code in _REFUSED for c in causes)
    name = re.sub(r"[^A-Za-z0-9]", "_", index.name).upper()
    hint = "run it again later, or name a mirror in [[index-mirrors]] of jbuild.toml"
    if untrusted:
        hint = http.CA_HINT
    elif refused:
        hint = f"give it a log-in: netrc, keyring, or UV_INDEX_{name}_USERNAME and UV_INDEX_{name}_PASSWORD"
    return IndexUnreachableError(
        f"the index {index.name} does not answer for {project}{also}{failing}",
        where=http.scrub(without_login(index.addresses[0].url)),
        hint=f"{hint}; cells that are locked already still build from the wheelhouse",
        log="\n".join(reasons),
    )


def failing_since(states: Path, name: str, *, note: bool = False) -> str | None:
    """Return since when an index fails (UTC, to the minute), as far as this machine knows; `note` that it fails now.

    None where it fails for the first time.
    """
    path = states / f"{name}.json"
    try:
        since = str(json.loads(path.read_text(encoding="utf-8"))["failing_since"])
    except (OSError, ValueError, KeyError, TypeError):
        since = ""
    if note and not since:
        moment = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        write_text(path, json.dumps({"failing_since": moment}) + "\n")
    return since or None


def answered(states: Path, name: str) -> None:
    """Forget that an index has failed."""
    (states / f"{name}.json").unlink(missing_ok=True)

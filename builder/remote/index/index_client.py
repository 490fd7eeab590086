"""Client of package indexes: pages with log-ins, retries and mirrors, and a record of failing indexes."""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import requests

from builder.errors import JbuildError, LockError, NetworkError
from builder.host.files import write_text
from builder.remote import answer_bodies, http, web_pages
from builder.remote.addresses import scrub
from builder.remote.index.listing import Address, Index, ProjectPage
from builder.remote.index.logins import REFUSED, Logins, variable, without_login
from builder.remote.index.pages import ACCEPT, parse
from builder.remote.vault.vault_reader import vault_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.config import Config

    _Outcome = ProjectPage | JbuildError | None
    _Failure = tuple[str, requests.RequestException | JbuildError]

_LONGEST_PAGE = 64 << 20
"""Bytes; the longest page of the public index has a few million."""
_SLOWEST_PAGE_S = 60.0
_MISSING = (404, 410)
_FRESH_S = 600.0
"""How long a page is cached: the public index's own `max-age`."""
_DOWN_S = 60.0
"""How long a failed index is not tried again."""


class IndexUnreachableError(NetworkError):
    """Neither an index nor its mirrors gave a usable answer; `refused` is True if one requires a log-in."""

    refused = False


class _UnusableError(requests.ConnectionError):
    """An answer that is not a package page. A retry may help: a proxy's error page is often temporary."""


class _WebPageInsteadError(_UnusableError):
    """A web page that is not a package page."""


@dataclass(slots=True)
class IndexClient:
    """Client of all indexes. Threads may share it; each page is requested once in ten minutes.

    `states` is a folder with the times since when indexes fail, across runs. `stood_in` has the vault that stood
    in for uv's own default index, by the index's name.
    """

    config: Config
    states: Path
    retry: http.Retry = field(default_factory=lambda: http.Retry(tries=4, within_s=60.0))
    now: Callable[[], float] = time.monotonic
    stood_in: dict[str, str] = field(default_factory=dict)
    _logins: Logins = field(init=False)
    _pages: dict[tuple[str, str], tuple[float, _Outcome]] = field(default_factory=dict)
    _locks: dict[tuple[str, str], threading.Lock] = field(default_factory=dict)
    _failed: dict[str, tuple[float, requests.RequestException]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._logins = Logins(self.config, http.session(self.config, http.Patience(connect_s=10.0, read_s=30.0)))

    def get(self, url: str, **options: Any) -> requests.Response:
        """Send a GET request with the server's log-in, if there is one.

        Raises:
            requests.RequestException: it failed.
        """
        return self._logins.get(url, **options)

    def page(self, index: Index, project: str) -> ProjectPage | None:
        """Return an index's page of a project (by its normalised name), or None if it has none.

        Raises:
            IndexUnreachableError: neither the index nor its mirrors gave a usable answer.
        """
        key = (index.name, project)
        with self._locks.setdefault(key, threading.Lock()):
            until_s, outcome = self._pages.get(key, (-math.inf, None))
            if until_s < self.now():
                until_s, outcome = self._pages[key] = self._ask(index, project)
        if isinstance(outcome, JbuildError):
            # A copy, since callers add their cell to it.
            raise copy.copy(outcome)
        return outcome

    def _ask(self, index: Index, project: str) -> tuple[float, _Outcome]:
        """Return the outcome of a request, and the time until which it is valid."""
        try:
            return self.now() + _FRESH_S, self._ask_all(index, project)
        except JbuildError as error:
            return self.now() + _DOWN_S, error

    def _ask_all(self, index: Index, project: str) -> ProjectPage | None:
        failures: list[_Failure] = []
        for address in index.addresses:
            if address.vault:
                page = self._ask_vault(index, address, project, failures)
                if page or not failures:
                    return page
                continue
            url = f"{without_login(address.url).rstrip('/')}/{project}/"
            try:
                page = self._ask_address(index, address, project, url)
            except requests.RequestException as error:
                failures.append((url, error))
                continue
            answered(self.states, index.name)
            return page
        raise _unreachable(index, project, failures, failing_since(self.states, index.name, note=True))

    def _ask_vault(self, index: Index, address: Address, project: str, failures: list[_Failure]) -> ProjectPage | None:
        """Return a vault's page of a project; if it has none, add that to the `failures` of the addresses before it.

        Raises:
            JbuildError: the vault, which is used instead of the index, cannot be read.
        """
        vault = address.vault or ""
        try:
            files = vault_at(vault, self.config).files(index.name, project)
        except JbuildError as error:
            if not failures:
                raise
            failures.append((vault, error))
            return None
        if not files:
            if failures:
                failures.append((vault, LockError(f"the vault has no {project} of this index")))
            return None
        if failures:
            failing_since(self.states, index.name, note=True)
        url = f"{without_login(address.url).rstrip('/')}/{project}/"
        return ProjectPage(index=index.name, project=project, url=url, files=files, vault=vault)

    def _ask_address(self, index: Index, address: Address, project: str, url: str) -> ProjectPage | None:
        until, failure = self._failed.get(address.url, (0.0, None))
        if failure and self.now() < until:
            # Its tries were used up for another project.
            raise failure
        try:
            return self.retry.run(lambda: self._read_page(index, address, project, url))
        except requests.RequestException as error:
            if http.is_transient(error):
                self._failed[address.url] = self.now() + _DOWN_S, error
            raise

    def _read_page(self, index: Index, address: Address, project: str, url: str) -> ProjectPage | None:
        with self.get(url, headers={"Accept": ACCEPT}) as answer:
            if answer.status_code in _MISSING:
                return None
            answer.raise_for_status()
            content = answer_bodies.read_body(answer, _LONGEST_PAGE, _SLOWEST_PAGE_S)
            if content is None:
                raise _UnusableError(f"its page is longer than {_LONGEST_PAGE >> 20} MiB")
            try:
                files = parse(content, answer.headers.get("Content-Type", ""), answer.url)
            except ValueError as error:
                if web_pages.is_web_page(answer):
                    text = f"a web page answers{web_pages.titled(content)}: {error}"
                    raise _WebPageInsteadError(text) from error
                raise _UnusableError(str(error)) from error
        page_url = scrub(without_login(answer.url))
        return ProjectPage(index=index.name, project=project, url=page_url, files=files, stand_in=address.stand_in)


@lru_cache(maxsize=4)
def client_of(config: Config, states: Path) -> IndexClient:
    """Return the client that all cells of a run share."""
    return IndexClient(config=config, states=states)


def _unreachable(index: Index, project: str, failures: list[_Failure], since: str | None) -> IndexUnreachableError:
    mirrors = len(index.addresses) - 1
    nor = f", nor {'its mirror' if mirrors == 1 else f'any of its {mirrors} mirrors'}" if mirrors > 0 else ""
    failing = f"; it has been failing since {since}" if since else ""
    errors = [error for _, error in failures if isinstance(error, requests.RequestException)]
    refused = any(error.response is not None and error.response.status_code in REFUSED for error in errors)
    hint = "run it again later, or name a mirror or a vault in [[index-mirrors]] of jbuild.toml"
    if any(map(http.is_untrusted, errors)):
        hint = http.CA_HINT
    elif all(isinstance(error, _WebPageInsteadError) for error in errors):
        hint = f"{web_pages.WEB_PAGE_HINT}; or {hint}"
    elif refused:
        name = variable(index.name)
        hint = f"give it a log-in: netrc, keyring, or {name}_USERNAME and {name}_PASSWORD"
    unreachable = IndexUnreachableError(
        f"the index {index.name} does not answer for {project}{nor}{failing}",
        where=scrub(failures[0][0]) if failures else None,
        hint=f"{hint}; cells that are locked already still build from the wheelhouse",
        log="\n".join(f"{scrub(url)}: {_reason(error)}" for url, error in failures) or None,
    )
    unreachable.refused = refused
    return unreachable


def _reason(error: requests.RequestException | JbuildError) -> str:
    if isinstance(error, JbuildError):
        return error.message
    return str(error) if isinstance(error, _UnusableError) else http.reason(error)


def failing_since(states: Path, name: str, *, note: bool = False) -> str | None:
    """Return since when an index fails on this machine (UTC, to the minute), None for its first failure.

    `note` records that it fails now.
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
    """Clear the record of an index's failure."""
    (states / f"{name}.json").unlink(missing_ok=True)

"""Log-ins of package indexes, from the sources that pip and uv use, each sent to its own server only."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from requests.auth import HTTPBasicAuth

from builder.errors import JbuildError
from builder.host import process
from builder.host.index_rows import DEFAULT
from builder.jetson.packages import with_own
from builder.remote.index.listing import addresses, named_urls

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from builder.host.config import Config

REFUSED = (401, 403)
_UV_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")

_KEYRING_S = 20.0

# User and password; some servers require a user only.
_Login = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _IndexAddress:
    """The address of an index without its log-in, and the log-in."""

    url: str
    login: _Login | None


@dataclass(slots=True)
class Logins:
    """Sends requests with the log-in of the server, if there is one. Threads may share it.

    Log-ins come from the addresses of the configuration and of uv's variables and from `UV_INDEX_<NAME>_USERNAME` and
    `UV_INDEX_<NAME>_PASSWORD`. requests adds those of netrc; after a refusal `keyring` is tried.
    """

    config: Config
    session: requests.Session
    _addresses: tuple[_IndexAddress, ...] = field(init=False)
    _keyring_logins: dict[_IndexAddress, _Login | None] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._addresses = tuple(_index_addresses(self.config))

    def get(self, url: str, **options: Any) -> requests.Response:
        """Send a GET request, and stream the answer.

        Raises:
            requests.RequestException: it failed.
        """
        address = self._index_address(url)
        login = self._keyring_logins.get(address) or address.login
        answer = self.session.get(url, auth=_auth(login), stream=True, **options)
        if answer.status_code in REFUSED and (new_login := self._from_keyring(address)) and new_login != login:
            answer.close()
            answer = self.session.get(url, auth=_auth(new_login), stream=True, **options)
        return answer

    def _index_address(self, url: str) -> _IndexAddress:
        """Return the index on the same server whose address has the longest common path with a URL."""
        bare, root = without_login(url), _root(url)
        return max(
            (address for address in self._addresses if _root(address.url) == root),
            key=lambda address: len(os.path.commonpath([address.url, bare])),
            default=_IndexAddress(url=root, login=None),
        )

    def _from_keyring(self, address: _IndexAddress) -> _Login | None:
        with self._mutex:
            if address not in self._keyring_logins:
                self._keyring_logins[address] = _ask_keyring(address.url, address.login[0] if address.login else "")
            return self._keyring_logins[address]


def without_login(url: str) -> str:
    """Return an address without user and password."""
    address = urlsplit(url)
    return urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))


def variable(name: str) -> str:
    """Return the prefix of uv's variables for an index of that name."""
    return f"UV_INDEX_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"


def _index_addresses(config: Config) -> Iterator[_IndexAddress]:
    for row in with_own(config.indexes):
        yield from (_index_address(address.url, row.name) for address in addresses(row.url, config.index_mirrors))
    for rule in config.index_mirrors:
        if rule.prefix == DEFAULT and rule.mirror:
            yield _index_address(rule.mirror, None)
        if rule.vault and rule.vault.startswith("http"):
            yield _index_address(rule.vault, None)
    for name, url in named_urls(*_UV_VARIABLES):
        yield _index_address(url, name)


def _index_address(url: str, name: str | None) -> _IndexAddress:
    address = urlsplit(url)
    user, password = unquote(address.username or ""), unquote(address.password or "")
    if not user and not password and name:
        user, password = (os.environ.get(f"{variable(name)}_{suffix}", "") for suffix in ("USERNAME", "PASSWORD"))
    return _IndexAddress(url=without_login(url), login=(user, password) if user or password else None)


def _root(url: str) -> str:
    address = urlsplit(without_login(url))
    return f"{address.scheme}://{address.netloc}".lower()


def _auth(login: _Login | None) -> HTTPBasicAuth | None:
    # Bytes, since requests encodes text as Latin-1.
    return HTTPBasicAuth(*(text.encode() for text in login)) if login else None


def _ask_keyring(url: str, user: str) -> _Login | None:
    """Ask the `keyring` program, if it is installed, for the index's address, then for its server, as uv does."""
    if not process.find_program("keyring"):
        return None
    services = dict.fromkeys((url, urlsplit(url).netloc))
    return next(filter(None, (_keyring(service, user) for service in services)), None)


def _keyring(service: str, user: str) -> _Login | None:
    argv = ["keyring", "get", service, user] if user else ["keyring", "--mode", "creds", "get", service]
    try:
        done = process.run(argv, timeout_s=_KEYRING_S, check=False)
    except JbuildError:
        # The keyring is locked, or asks for a password on a terminal.
        return None
    lines = done.stdout.splitlines()
    if done.code != 0 or len(lines) != (1 if user else 2):
        return None
    return user or lines[0], lines[-1]

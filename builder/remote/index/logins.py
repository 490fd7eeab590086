"""Log-ins of package indexes, found where pip and uv find them, and given only to the servers that they are for."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from builder.errors import JbuildError
from builder.host import process
from builder.host.index_rows import DEFAULT
from builder.jetson.indexes import with_own
from builder.remote.index.mirrors import addresses

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from builder.host.config import Config

REFUSED = (401, 403)
_UV_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
_NAMED = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)=)?(?P<url>https?://\S+)")
_KEYRING_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """A user and a password; without a password it may still be all that a server wants."""

    user: str
    password: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _IndexAddress:
    """The address of an index, without the log-in that it goes with."""

    url: str
    login: Login | None


@dataclass(slots=True)
class Logins:
    """Sends requests with the log-in of the server, if one is known. Threads may share it.

    Log-ins come from the addresses of the configuration and of uv's variables and from `UV_INDEX_<NAME>_USERNAME` and
    `UV_INDEX_<NAME>_PASSWORD`. Those of netrc are added by requests; a server that refuses has `keyring` asked.
    """

    config: Config
    _places: tuple[_IndexAddress, ...] = field(init=False)
    _asked: dict[tuple[str, str], Login | None] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._places = tuple(_places(self.config))

    def get(self, session: requests.Session, url: str, **options: Any) -> requests.Response:
        """Send a GET request.

        Raises:
            requests.RequestException: it failed.
        """
        place = self._place(url)
        login = self._asked.get(_key(place)) or place.login
        answer = session.get(url, auth=_auth(login), **options)
        if answer.status_code in REFUSED and (found := self._from_keyring(place)) and found != login:
            answer.close()
            answer = session.get(url, auth=_auth(found), **options)
        return answer

    def _place(self, url: str) -> _IndexAddress:
        """Return the index on the same server whose address has most in common with a URL."""
        bare, root = without_login(url), _root(url)
        here = [place for place in self._places if _root(place.url) == root]
        return max(
            here,
            key=lambda place: len(os.path.commonpath([place.url, bare])),
            default=_IndexAddress(url=root, login=None),
        )

    def _from_keyring(self, place: _IndexAddress) -> Login | None:
        with self._mutex:
            if _key(place) not in self._asked:
                self._asked[_key(place)] = _ask_keyring(place)
            return self._asked[_key(place)]


def without_login(url: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def variable(name: str) -> str:
    """Return how uv's variables for an index of that name begin."""
    return f"UV_INDEX_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}"


def _places(config: Config) -> Iterator[_IndexAddress]:
    for row in with_own(config.indexes):
        yield from (_place(address.url, row.name) for address in addresses(row.url, config.index_mirrors))
    yield from (_place(rule.mirror, None) for rule in config.index_mirrors if rule.prefix == DEFAULT)
    for word in " ".join(os.environ.get(name, "") for name in _UV_VARIABLES).split():
        if found := _NAMED.fullmatch(word):
            yield _place(found["url"], found["name"])


def _place(url: str, name: str | None) -> _IndexAddress:
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user and not password and name:
        user, password = (os.environ.get(f"{variable(name)}_{part}", "") for part in ("USERNAME", "PASSWORD"))
    return _IndexAddress(
        url=without_login(url), login=Login(user=user, password=password) if user or password else None
    )


def _root(url: str) -> str:
    parts = urlsplit(without_login(url))
    return f"{parts.scheme}://{parts.netloc}".lower()


def _key(place: _IndexAddress) -> tuple[str, str]:
    return place.url, place.login.user if place.login else ""


def _auth(login: Login | None) -> tuple[str, str] | None:
    # Bytes, for requests would write other letters than those of Latin-1 wrongly.
    return (login.user.encode(), login.password.encode()) if login else None  # type: ignore[return-value]


def _ask_keyring(place: _IndexAddress) -> Login | None:
    """Ask the `keyring` program, if there is one, by the index's address, then by its server, as uv does."""
    if not process.find_program("keyring"):
        return None
    for service in dict.fromkeys((place.url, urlsplit(place.url).netloc)):
        if found := _keyring(service, place.login.user if place.login else ""):
            return found
    return None


def _keyring(service: str, user: str) -> Login | None:
    argv = ["keyring", "get", service, user] if user else ["keyring", "--mode", "creds", "get", service]
    try:
        done = process.run(argv, timeout_s=_KEYRING_S, check=False)
    except JbuildError:
        # A keyring that is locked, or asks for a password on a terminal, knows nothing here.
        return None
    lines = done.stdout.splitlines()
    if done.code != 0 or len(lines) != (1 if user else 2):
        return None
    return Login(user=user or lines[0], password=lines[-1])

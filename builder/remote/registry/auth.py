"""Logging in to a registry: Bearer tokens (distribution's token specification) and Basic."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from requests.auth import AuthBase

from builder.errors import RegistryError
from builder.remote.http import is_loopback, scrub

if TYPE_CHECKING:
    import requests

    from builder.remote.registry.credentials import Credentials, CredentialSource

# The specification's life of a token that does not say how long it lives.
_TOKEN_LIFE_S = 60.0
_MARGIN_S = 10.0
_CLIENT = "jbuild"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?=\s|,|$)")
_GAP = re.compile(r"[\s,]*")


class Authorization(AuthBase):
    """Sets a request's `Authorization` header, or none; requests would otherwise put netrc's over it."""

    def __init__(self, value: str | None) -> None:
        """Take the header's value; None asks anonymously."""
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set the header."""
        if self._value:
            request.headers["Authorization"] = self._value
        return request


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    header: str
    until: float


class Authority:
    """Knows how to log in to one registry, and keeps the tokens got so far. Safe for threads."""

    def __init__(self, host: str, base: str, session: requests.Session, credentials: CredentialSource) -> None:
        """Take the registry; `credentials` is asked once, and only when the registry wants a log-in."""
        self._host, self._base, self._session = host, base, session
        self._source = credentials
        self._found: tuple[Credentials | None] | None = None
        self._passes: dict[tuple[str, ...], _Pass] = {}
        self._basic: str | None = None
        self._mutex = threading.Lock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Return the `Authorization` header for these scopes, as far as one is known."""
        known = self._passes.get(scopes)
        if known and known.until > time.monotonic():
            return known.header
        return self._basic

    def renew(self, refused: requests.Response, used: str | None, scopes: tuple[str, ...]) -> bool:
        """Get a new header after a 401 to a request with the header `used`; False if there is no way.

        Raises:
            RegistryError: the token server answers nonsense, or the credentials cannot be read.
            requests.RequestException: the token server refuses or cannot be reached.
        """
        with self._mutex:
            if self.header(scopes) != used:
                return True  # another thread was faster
            offers = {c.scheme: c for c in parse_challenges(refused.headers.get("WWW-Authenticate", ""))}
            credentials = self._credentials()
            if "bearer" in offers:
                self._passes[scopes] = self._token(offers["bearer"], scopes, credentials)
                return True
            if "basic" in offers and credentials and credentials.user and used != credentials.basic:
                self._basic = credentials.basic
                return True
            return False

    def _credentials(self) -> Credentials | None:
        if self._found is None:
            self._found = (self._source(),)
        return self._found[0]

    def _token(self, offer: Challenge, scopes: tuple[str, ...], credentials: Credentials | None) -> _Pass:
        realm = offer.get("realm") or ""
        self._check_realm(realm)
        started = time.monotonic()
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
                "service": offer.get("service") or "",
                "scope": " ".join(scopes),
            }
            response = self._session.post(realm, data=form, auth=Authorization(None))
        else:
            fields = [("service", offer.get("service") or ""), *(("scope", scope) for scope in scopes)]
            basic = credentials.basic if credentials and credentials.user else None
            response = self._session.get(realm, params=fields, auth=Authorization(basic))
        response.raise_for_status()
        return self._read(response, started)

    def _check_realm(self, realm: str) -> None:
        """Refuse to send credentials in the clear when the registry itself is asked over TLS."""
        parts = urlsplit(realm)
        plain_is_fine = self._base.startswith("http://") or is_loopback(parts.hostname or "")
        if parts.scheme == "https" or (parts.scheme == "http" and plain_is_fine):
            return
        raise RegistryError(
            f"the registry sends its log-in to {scrub(realm)!r}, which is no https address",
            where=self._host,
            hint="tell the registry's operator: the token realm must be https",
        )

    def _read(self, response: requests.Response, started: float) -> _Pass:
        try:
            body = response.json()
            token = body.get("token") or body["access_token"]
            life = float(body.get("expires_in") or _TOKEN_LIFE_S)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(
                "the registry's token server answers no token", where=self._host, hint="check the registry's set-up"
            ) from error
        return _Pass(header=f"Bearer {token}", until=started + max(life - _MARGIN_S, life / 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """One way to log in that a server offers (RFC 9110, section 11.6.1); names are in lower case."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """Return a parameter's value, or None."""
        return dict(self.parameters).get(name)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Return the challenges of a `WWW-Authenticate` header in its order, up to what cannot be read; never raises."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    position = 0
    while True:
        position = _end_of(_GAP.match(header, position), position)
        parameter = _PARAMETER.match(header, position)
        scheme = _SCHEME.match(header, position)
        if parameter and found:
            value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
            found[-1][1].append((parameter[1].lower(), value))
        elif scheme and not parameter:
            found.append((scheme[1].lower(), []))
        else:
            return tuple(Challenge(scheme=name, parameters=tuple(pairs)) for name, pairs in found)
        position = _end_of(parameter or scheme, position)


def _end_of(match: re.Match[str] | None, position: int) -> int:
    return match.end() if match else position

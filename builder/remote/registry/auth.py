"""Logging in to a registry: Bearer tokens (distribution's token specification) and Basic."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from requests.auth import AuthBase

from builder.errors import RegistryError
from builder.remote.http import is_loopback, scrub

if TYPE_CHECKING:
    import requests

    from builder.remote.registry.credentials import Credentials, CredentialSource

# The specification's default lifetime of a token.
_TOKEN_LIFE_S = 60.0
_MARGIN_S = 10.0
_CLIENT = "jbuild"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?=\s|,|$)")
_GAP = re.compile(r"[\s,]*")


class Authorization(AuthBase):
    """Sets a request's `Authorization` header, or none; otherwise requests would replace it with netrc's."""

    def __init__(self, value: str | None) -> None:
        """Take the header's value; None is anonymous."""
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Set the header."""
        if self._value:
            request.headers["Authorization"] = self._value
        return request


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    header: str
    until: float


class Authority:
    """Logs in to one registry and caches its tokens. Safe for threads."""

    def __init__(self, host: str, base: str, session: requests.Session, credentials: CredentialSource) -> None:
        """Take the registry; `credentials` is called once, when the registry first requires a log-in."""
        self._host, self._base, self._session = host, base, session
        self._credentials = cache(credentials)
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._basic: str | None = None
        self._mutex = threading.Lock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Return the cached `Authorization` header for these scopes, or None."""
        token = self._tokens.get(scopes)
        return token.header if token and token.until > time.monotonic() else self._basic

    def renew(self, refused: requests.Response, used: str | None, scopes: tuple[str, ...]) -> bool:
        """Get a new header after a 401 to a request with the header `used`; return False if that is impossible.

        Raises:
            RegistryError: the token server returned no token, or the credentials cannot be read.
            requests.RequestException: the token server refuses or cannot be reached.
        """
        with self._mutex:
            if self.header(scopes) != used:
                return True  # another thread was faster
            offers = dict(parse_challenges(refused.headers.get("WWW-Authenticate", "")))
            credentials = self._credentials()
            if "bearer" in offers:
                self._tokens[scopes] = self._token(offers["bearer"], scopes, credentials)
                return True
            if "basic" in offers and credentials and credentials.user and used != credentials.basic:
                self._basic = credentials.basic
                return True
            return False

    def _token(self, offer: dict[str, str], scopes: tuple[str, ...], credentials: Credentials | None) -> _Token:
        realm, service = offer.get("realm", ""), offer.get("service", "")
        self._check_realm(realm)
        started = time.monotonic()
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
                "service": service,
                "scope": " ".join(scopes),
            }
            response = self._session.post(realm, data=form, auth=Authorization(None))
        else:
            fields = [("service", service), *(("scope", scope) for scope in scopes)]
            basic = credentials.basic if credentials and credentials.user else None
            response = self._session.get(realm, params=fields, auth=Authorization(basic))
        response.raise_for_status()
        return self._read(response, started)

    def _check_realm(self, realm: str) -> None:
        """Refuse to send credentials unencrypted for a registry that uses TLS."""
        address = urlsplit(realm)
        plain_is_fine = self._base.startswith("http://") or is_loopback(address.hostname or "")
        if address.scheme == "https" or (address.scheme == "http" and plain_is_fine):
            return
        raise RegistryError(
            f"the registry's token realm {scrub(realm)!r} is not an https address",
            where=self._host,
            hint="tell the registry's operator: the token realm must be https",
        )

    def _read(self, response: requests.Response, started: float) -> _Token:
        try:
            body = response.json()
            token = body.get("token") or body["access_token"]
            life = float(body.get("expires_in") or _TOKEN_LIFE_S)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(
                "the registry's token server returned no token", where=self._host, hint="check the registry's set-up"
            ) from error
        return _Token(header=f"Bearer {token}", until=started + max(life - _MARGIN_S, life / 2))


def parse_challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return the log-in schemes of a `WWW-Authenticate` header with their parameters (RFC 9110, section 11.6.1).

    They are in order, up to the first that cannot be read; names are in lower case.
    """
    challenges: list[tuple[str, dict[str, str]]] = []
    position = 0
    while True:
        position = _end_of(_GAP.match(header, position), position)
        parameter = _PARAMETER.match(header, position)
        scheme = _SCHEME.match(header, position)
        if parameter and challenges:
            value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
            challenges[-1][1][parameter[1].lower()] = value
        elif scheme and not parameter:
            challenges.append((scheme[1].lower(), {}))
        else:
            return challenges
        position = _end_of(parameter or scheme, position)


def _end_of(match: re.Match[str] | None, position: int) -> int:
    return match.end() if match else position

"""Log-in to registries: credentials from the environment or `docker login`, sent as Basic or for a Bearer token.

Tokens follow distribution's token specification.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from builder.errors import ProgramFailedError, ProgramMissingError, RegistryError
from builder.host import process
from builder.host.json_documents import decode_json
from builder.remote.addresses import is_loopback, scrub
from builder.remote.http import joined
from builder.remote.registry.reference import DOCKER_HUB
from builder.remote.web_pages import refuse_web_page

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests

    CredentialSource = Callable[[], "Credentials | None"]

# The specification's default lifetime of a token.
_TOKEN_LIFE_S = 60.0
_MARGIN_S = 10.0
_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_WITHIN_S = 60.0
# The user name that credential helpers return with an identity token.
_TOKEN_USER = "<token>"  # noqa: S105
_CLIENT = "jbuild"
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
# HTTP libraries refuse to send headers with other characters.
_HEADER_WORD = r"\A[!-~]+\Z"
# A parameter, or a scheme.
_CHALLENGE_PART = re.compile(rf'[\s,]*(?:({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))|({_TOKEN})(?=\s|,|$))')


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """User and password, or an identity token of an OAuth server; `repr` leaves out the secrets."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of a Basic `Authorization` header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find_credentials(host: str, *, publish: bool = False) -> Credentials | None:
    """Return the credentials for a registry host, or None for anonymous requests.

    First `JBUILD_REGISTRY_USER_<HOST>` and `JBUILD_REGISTRY_PASSWORD_<HOST>` (upper case, `_` for all but letters and
    digits). Then, to `publish` only, `JBUILD_REGISTRY_USER` and `JBUILD_REGISTRY_PASSWORD`: the registry of a
    base image must not get the password of the one that jbuild publishes to. Then Docker's `config.json`: credential
    helpers, the credential store, `auths`.

    Raises:
        RegistryError: `config.json` or a helper is broken.
    """
    mangled = re.sub(r"[^A-Z0-9]", "_", host.upper())
    suffixes = (f"_{mangled}", "") if publish else (f"_{mangled}",)
    for suffix in suffixes:
        user = os.environ.get(f"JBUILD_REGISTRY_USER{suffix}")
        password = os.environ.get(f"JBUILD_REGISTRY_PASSWORD{suffix}")
        if user and password:
            return Credentials(user=user, password=password)
    return _from_docker(host)


def docker_config() -> Path:
    """Return the path of Docker's `config.json`."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path("~/.docker").expanduser()) / "config.json"


def _from_docker(host: str) -> Credentials | None:
    try:
        document = json.loads(docker_config().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _broken("it cannot be read as JSON", host) from error
    if not isinstance(document, dict):
        raise _broken("it is not a JSON object", host)
    helper = _named(document.get("credHelpers"), host) or document.get("credsStore")
    entry = _named(document.get("auths"), host)
    credentials = _ask_helper(str(helper), host) if helper else None
    return credentials or (_from_entry(entry, host) if isinstance(entry, dict) else None)


def _named(entries: Any, host: str) -> Any:
    """Return the entry of a host; keys may carry a scheme and an API version."""
    for key, value in entries.items() if isinstance(entries, dict) else ():
        bare = re.sub(r"^https?://|/(?:v[12]/?)?$", "", key)
        if bare == host or (host == DOCKER_HUB and bare in ("index.docker.io", "registry-1.docker.io")):
            return value
    return None


def _from_entry(entry: dict[str, Any], host: str) -> Credentials | None:
    token = entry.get("identitytoken")
    if token:
        return Credentials(identity_token=str(token))
    if not entry.get("auth"):
        user, password = entry.get("username"), entry.get("password")
        return Credentials(user=str(user), password=str(password)) if user and password else None
    try:
        user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _broken(f"the entry of {host} is not base64", host) from error
    return Credentials(user=user, password=password.rstrip("\0"))


def _ask_helper(helper: str, host: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    if not re.fullmatch(r"[A-Za-z0-9._-]+", helper):
        raise _broken(f"{helper!r} is not the name of a credential helper", host)
    try:
        key = _HUB_KEY if host == DOCKER_HUB else host
        answer = process.run([program, "get"], stdin=key, timeout_s=_HELPER_WITHIN_S, check=False)
    except ProgramMissingError as error:
        raise _broken(f"it names the credential helper `{program}`, which is not installed", host) from error
    except ProgramFailedError as error:
        raise _broken(f"the credential helper `{program}` does not answer", host) from error
    if answer.code != 0:
        output = f"{answer.stdout} {answer.stderr}".strip()
        if "not found" in output:
            return None
        raise RegistryError(f"`{program} get` failed", where=host, log=output, hint=f"run `docker login {host}`")
    try:
        body = json.loads(answer.stdout)
        user, secret = str(body["Username"]), str(body["Secret"])
    except (ValueError, KeyError, TypeError):
        # The cause would contain the secret.
        raise _broken(f"the credential helper `{program}` returned no credentials", host) from None
    return Credentials(identity_token=secret) if user == _TOKEN_USER else Credentials(user=user, password=secret)


def _broken(flaw: str, host: str) -> RegistryError:
    hint = f"correct the file, or run `docker login {host}`"
    return RegistryError(f"no credentials: {flaw}", where=str(docker_config()), hint=hint)


def set_authorization(value: str | None, request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Set a request's `Authorization` header, or none; without any `auth` requests would take netrc's."""
    if value:
        request.headers["Authorization"] = value
    return request


class Authority:
    """Logs in to one registry and caches its tokens. Safe for threads."""

    def __init__(self, host: str, base: str, session: requests.Session, credentials: CredentialSource) -> None:
        """Take the registry; `credentials` is called once, when the registry first requires a log-in."""
        self._host, self._base, self._session = host, base, session
        self._credentials = cache(credentials)
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._basic: str | None = None
        self.realms: set[str] = set()
        self._mutex = threading.Lock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Return the cached `Authorization` header for these scopes, or None."""
        header, until_s = self._tokens.get(scopes, ("", 0.0))
        return header if until_s > time.monotonic() else self._basic

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

    def _token(
        self, offer: dict[str, str], scopes: tuple[str, ...], credentials: Credentials | None
    ) -> tuple[str, float]:
        """Return a header and the time until which it is valid."""
        realm, service = offer.get("realm", ""), offer.get("service", "")
        self._check_realm(realm)
        self.realms.add(realm.partition("?")[0])
        started = time.monotonic()
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
                "service": service,
                "scope": " ".join(scopes),
            }
            response = self._session.post(realm, data=form, auth=partial(set_authorization, None))
        else:
            fields = [("service", service), *(("scope", scope) for scope in scopes)]
            basic = credentials.basic if credentials and credentials.user else None
            response = self._session.get(realm, params=fields, auth=partial(set_authorization, basic))
        response.raise_for_status()
        return self._read(refuse_web_page(response), started)

    def _check_realm(self, realm: str) -> None:
        """Refuse to send credentials unencrypted for a registry that uses TLS."""
        address = urlsplit(joined(realm, "") or "")
        plain_is_fine = self._base.startswith("http://") or is_loopback(address.hostname or "")
        if address.scheme == "https" or (address.scheme == "http" and plain_is_fine):
            return
        raise RegistryError(
            f"the registry's token realm {scrub(realm)!r} is not an https address",
            where=self._host,
            hint="tell the registry's operator: the token realm must be https",
        )

    def _read(self, response: requests.Response, started: float) -> tuple[str, float]:
        try:
            body = decode_json(response.content)
            token = body.get("token") or body["access_token"]
            life = float(body.get("expires_in") or _TOKEN_LIFE_S)
            (word,) = re.findall(_HEADER_WORD, token)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(
                "the registry's token server returned no token", where=self._host, hint="check the registry's set-up"
            ) from error
        return f"Bearer {word}", started + max(life - _MARGIN_S, life / 2)


def parse_challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """Return the log-in schemes of a `WWW-Authenticate` header with their parameters (RFC 9110, section 11.6.1).

    They are in order, up to the first that cannot be read; names are in lower case.
    """
    challenges: list[tuple[str, dict[str, str]]] = []
    position = 0
    while part := _CHALLENGE_PART.match(header, position):
        name, quoted, plain, scheme = part.groups()
        if scheme:
            challenges.append((scheme.lower(), {}))
        elif challenges:
            challenges[-1][1][name.lower()] = plain or re.sub(r"\\(.)", r"\1", quoted)
        else:
            break
        position = part.end()
    return challenges

"""Failed requests to registries: the kinds of errors, and the message and the hint for each status."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests
from requests import exceptions

from builder.errors import RegistryError
from builder.remote.addresses import scrub
from builder.remote.answer_bodies import AddressError, AnswerError
from builder.remote.http import CA_HINT, TOO_MANY_REQUESTS, asked_wait, is_untrusted, reason
from builder.remote.registry.refusals import explanation_of, refusal_for
from builder.remote.web_pages import WEB_PAGE_HINT, WebPageError, is_web_page

if TYPE_CHECKING:
    from urllib.parse import SplitResult

# By right: only a repeated push skips blobs.
_AGAIN = {
    "pull": "run the same command again",
    "push": "run the same command again: a push sends only what the registry lacks",
}
_GATEWAY_FAULTS = frozenset({502, 503, 504})
# A web page with such a status comes from a website, not from a registry; a proxy's error pages have others.
_WEBSITE = frozenset({400, 403, 404, 405, 511})
# Answers of a server that does not know an address at all.
_UNKNOWN_ADDRESS = frozenset({404, 405})
REALM = "WWW-Authenticate"
_HINTS = {
    400: "the registry does not understand the request: is it a registry of API version 2?",
    401: "run `docker login {host}`, or set JBUILD_REGISTRY_USER and JBUILD_REGISTRY_PASSWORD",
    403: "the account may not {right} {name}: get the right, or log in with another account (`docker login {host}`)",
    404: "the registry does not have {name}, or not this tag: check both",
    405: "the registry does not allow this: it may be read-only, or a cache of another one",
    413: "the registry or a proxy in front of it limits the size of requests: raise it (nginx: client_max_body_size)",
    429: "the registry limits requests: wait, log in (`docker login {host}`) for more, or add a mirror rule",
    507: "the registry is full: free some space there, then run the same command again",
}
_MALFORMED_ADDRESS = "correct the external address in the settings of {host}, or of a proxy in front of it"
# A push creates the repository, if the registry lets it.
_CREATED_FIRST = "correct {name}; some registries require that the project or repository is created first"


class RegistryUnreachableError(RegistryError):
    """No answer: no connection, an unknown host, an untrusted certificate, or a gateway without its registry."""


class NotRegistryError(RegistryUnreachableError):
    """A web page answers at the registry's address."""


class ImageMissingError(RegistryError):
    """The registry does not have the image."""


class BlobUnknownError(RegistryError):
    """The registry lacks a blob of an uploaded manifest."""


class TagImmutableError(RegistryError):
    """The registry does not move a tag that it has."""


class RedirectError(AnswerError):
    """A redirect that the request cannot follow."""


_KINDS: dict[str, type[RegistryError]] = {"blob-unknown": BlobUnknownError, "immutable-tag": TagImmutableError}


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFailure:
    """A failed request to `url` for the repository `name`; `header` is the registry's header that gave the address."""

    error: requests.RequestException
    name: str
    doing: str
    right: str
    base: str
    url: str
    header: str | None

    @property
    def host(self) -> str:
        """The registry's host."""
        return self.name.partition("/")[0]

    @property
    def is_misled(self) -> bool:
        """Whether an address from the registry's headers is the likely cause."""
        if self.header is None or self.header == REALM:
            return False
        if not is_same_server(self.url, self.base) or urlsplit(self.url).scheme != urlsplit(self.base).scheme:
            return True
        response = self.error.response
        unknown = response is not None and response.status_code in _UNKNOWN_ADDRESS
        return unknown or isinstance(self.error, WebPageError)

    @property
    def origin(self) -> str:
        """Where the failed address comes from, for the message; empty for the configured one."""
        if self.is_misled or self.header == REALM:
            return f" at {scrub(self.url)} (from the registry's {self.header} header)"
        return ""

    def explained(self) -> RegistryError:
        """Return the error with its hint."""
        response = self.error.response
        if isinstance(self.error, exceptions.HTTPError) and response is not None:
            return self._refused(response)
        message = f"{self.doing}: {reason(self.error)}{self.origin}"
        if isinstance(self.error, WebPageError):
            return NotRegistryError(f"{message}, not a registry", where=self.name, hint=self._web_page_hint())
        if isinstance(self.error, AddressError):
            return RegistryError(message, where=self.name, hint=self._filled(_MALFORMED_ADDRESS))
        if isinstance(self.error, (RedirectError, exceptions.TooManyRedirects)):
            return RegistryUnreachableError(message, where=self.name, hint=self._redirect_hint())
        return RegistryUnreachableError(message, where=self.name, hint=self._unreachable_hint())

    def _refused(self, response: requests.Response) -> RegistryError:
        status, explanation = response.status_code, explanation_of(response)
        detail = f" ({explanation})" if explanation else ""
        message = f"{self.doing}: the registry answers {status}{detail}{asked_wait(response)}{self.origin}"
        refusal = refusal_for(explanation, self.right)
        if refusal:
            kind = _KINDS.get(refusal.id, RegistryError)
            return kind(message, where=self.name, hint=self._filled(refusal.hint))
        if status in _WEBSITE and is_web_page(response):
            return NotRegistryError(message, where=self.name, hint=self._web_page_hint())
        if status in _GATEWAY_FAULTS:
            hint = f"the registry is down or starting; {_AGAIN[self.right]}"
            return RegistryUnreachableError(message, where=self.name, hint=hint)
        missing = status == HTTPStatus.NOT_FOUND and self.right == "pull"
        kind = ImageMissingError if missing else RegistryError
        return kind(message, where=self.name, hint=self._status_hint(status))

    def _status_hint(self, status: int) -> str:
        if self.is_misled and status not in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, TOO_MANY_REQUESTS):
            return self._address_hint()
        if status == HTTPStatus.NOT_FOUND and self.right == "push":
            return self._filled(_CREATED_FIRST)
        # distribution answers "unknown error" when its disk is full.
        full_disk = " (is its disk full?)" if self.right == "push" else ""
        other = f"check the registry's log{full_disk}, then {_AGAIN[self.right]}"
        return self._filled(_HINTS.get(status, other))

    def _filled(self, hint: str) -> str:
        return hint.format(host=self.host, name=self.name, right=self.right)

    def _web_page_hint(self) -> str:
        address = scrub(self.url) if self.is_misled else f"{self.base}/v2/"
        return WEB_PAGE_HINT.replace("the address in a browser", f"{address} in a browser", 1)

    def _redirect_hint(self) -> str:
        response = self.error.response
        target = urljoin(self.url, response.headers.get("Location", "") if response is not None else "")
        same = urlsplit(target).hostname == urlsplit(self.base).hostname
        if same and self.base.startswith("http://") and target.startswith("https://"):
            return f"the registry wants HTTPS: remove {self.host} from `insecure` in jbuild.toml"
        return f"a sign-in page or a proxy redirects requests to {self.host}: sign in, or correct the proxy"

    def _address_hint(self) -> str:
        """Return the next step for an address that the registry or a proxy before it has made."""
        url, base = urlsplit(self.url), urlsplit(self.base)
        if self.right == "push" or url.hostname == base.hostname:
            return (
                f"the registry, or a proxy in front of it, {_difference(url, base)}: let the proxy pass Host with the "
                f"port and X-Forwarded-Proto, or set the registry's external address to {self.base}"
            )
        return (
            f"this machine must reach that address too: check the network and NO_PROXY, or let the registry "
            f"{self.host} serve blobs itself (distribution: `storage.redirect.disable`)"
        )

    def _unreachable_hint(self) -> str:
        if is_untrusted(self.error):
            return CA_HINT
        if self.header == REALM:
            return f"the token server of {self.host} must answer this machine: check the registry's token realm"
        return self._address_hint() if self.is_misled else self._host_hint()

    def _host_hint(self) -> str:
        error, host = self.error, self.host
        if isinstance(error, exceptions.SSLError):
            return f'if {host} speaks plain HTTP, list it as `insecure = ["{host}"]` under [publish] in jbuild.toml'
        if isinstance(error, exceptions.ProxyError):
            return f"check HTTPS_PROXY and HTTP_PROXY, or add {host} to NO_PROXY"
        if "refused" in reason(error):
            return f"is the registry running at {host}, and is it the right port (HTTP or HTTPS)?"
        return f"check the name {host} and the network, then {_AGAIN[self.right]}"


def is_same_server(url: str, base: str) -> bool:
    """Return whether an address is on a registry's host and port, and not without its TLS."""
    (scheme, *server), (own_scheme, *own_server) = _server(url), _server(base)
    return server == own_server and scheme in (own_scheme, "https")


def _server(url: str) -> tuple[str, str | None, int | None]:
    address = urlsplit(url)
    try:
        port = address.port
    except ValueError:
        return address.scheme, None, None
    return address.scheme, address.hostname, port or {"http": 80, "https": 443}.get(address.scheme)


def _difference(url: SplitResult, base: SplitResult) -> str:
    """Return what an address from a registry's header has wrong, compared with the registry's own."""
    if url.hostname != base.hostname:
        return f"gives the host {url.hostname} in that address"
    if url.scheme != base.scheme:
        return f"gives {url.scheme} in that address, but it is spoken to with {base.scheme}"
    if url.netloc != base.netloc:
        return f"{'changes' if ':' in url.netloc else 'loses'} the port in that address"
    return "gives a wrong path in that address"

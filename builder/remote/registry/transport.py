"""Requests to one registry: address, log-in, retries, and errors with hints for each status."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests import exceptions

from builder.errors import RegistryError
from builder.remote.answer_bodies import AddressError, AnswerError
from builder.remote.http import (
    CA_HINT,
    MOST_REDIRECTS,
    TOO_MANY_REQUESTS,
    Retry,
    asked_wait,
    is_untrusted,
    joined,
    reason,
    scrub,
)
from builder.remote.registry.auth import Authority, set_authorization
from builder.remote.registry.reference import api_base
from builder.remote.registry.refusals import explanation_of, refusal_for
from builder.remote.web_pages import WEB_PAGE_HINT, WebPageError, is_web_page, refuse_web_page

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from urllib.parse import SplitResult

    from builder.remote.registry.auth import CredentialSource

_T = TypeVar("_T")
# By right: only a repeated push skips blobs.
_AGAIN = {
    "pull": "run the same command again",
    "push": "run the same command again: a push sends only what the registry lacks",
}
_GATEWAY_FAULTS = frozenset({502, 503, 504})
# A web page with such a status comes from a website, not from a registry; a proxy's error pages have others.
_WEBSITE = frozenset({400, 403, 404, 405, 511})
_LOCATION = "Location"
_REALM = "WWW-Authenticate"
# Answers of a server that does not know an address at all.
_UNKNOWN_ADDRESS = frozenset({404, 405})
_MOST_UPLOAD_REDIRECTS = 5

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
_LONGEST_SHOWN = 100
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


def scopes_for(repository: str, right: str) -> tuple[str, ...]:
    """Return the token scopes for a right: `pull` or `push`."""
    return (f"repository:{repository}:{'pull' if right == 'pull' else 'pull,push'}",)


class Transport:
    """Sends requests to one registry and turns failures into errors."""

    def __init__(
        self,
        host: str,
        session: requests.Session,
        credentials: CredentialSource,
        *,
        insecure: Collection[str] = (),
        retry: Retry | None = None,
    ) -> None:
        """Take the registry's host and its settings; `insecure` lists hosts of plain HTTP."""
        self.host = host
        self.base = api_base(host, insecure)
        self.retry = retry or Retry()
        self._session = session
        self._authority = Authority(host, self.base, session, credentials)
        # The header that gave an address, by the address without its query.
        self._origins: dict[str, str] = {}

    def call(
        self, method: str, repository: str, path: str, doing: str, *, right: str = "pull", **options: Any
    ) -> requests.Response:
        """Send a request for a path below a repository, or for an address from the registry, with retries.

        `doing` is the failed step, such as "cannot read the manifest"; `right` is `pull` or `push`; `options` are those
        of `once`.

        Raises:
            RegistryError: the registry refused or could not be reached.
        """
        address, scopes = urljoin(f"/v2/{repository}/", path), scopes_for(repository, right)
        with self.explained(repository, right, doing):
            return self.retrying(lambda: self.once(method, address, scopes=scopes, **options))

    def retrying(self, attempt: Callable[[], _T], progress: Callable[[], int] | None = None) -> _T:
        """Return the result of `attempt`, with retries whose messages name addresses of other servers.

        Raises:
            requests.RequestException: the last failure.
        """
        return self.retry.run(attempt, progress=progress, explain=self._reason)

    def _reason(self, error: requests.RequestException) -> str:
        return reason(error) + self._failure(error, "", "", "pull").origin

    def once(
        self,
        method: str,
        path: str,
        *,
        scopes: tuple[str, ...],
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        absent_ok: bool = False,
        stream: bool = False,
        timeout: tuple[float, float] | None = None,
    ) -> requests.Response:
        """Send a request once, logging in if the registry requires it; `body` is called each time that it is sent.

        Raises:
            requests.RequestException: any answer but 2xx and, with `absent_ok`, 404; a web page; too many redirects.
        """

        def send(url: str, header: str | None) -> requests.Response:
            data = body() if body else None
            auth = partial(set_authorization, header)
            return self._session.request(
                method,
                url,
                headers=dict(headers or {}),
                data=data,
                auth=auth,
                stream=stream,
                timeout=timeout,
                # requests would send an upload's body a second time from where the first time ended.
                allow_redirects=False,
            )

        url = self.absolute(path)
        for _ in range(1 + (_MOST_UPLOAD_REDIRECTS if body else MOST_REDIRECTS)):
            response = self._send_logged_in(url, scopes, send)
            if not response.is_redirect:
                return self._accepted(response, absent_ok=absent_ok)
            response.close()
            url = self._redirected(method, response)
        raise exceptions.TooManyRedirects(request=response.request, response=response)

    def _send_logged_in(
        self, url: str, scopes: tuple[str, ...], send: Callable[[str, str | None], requests.Response]
    ) -> requests.Response:
        if not self._is_own(url):
            # An external store must not get the registry's credentials.
            return send(url, None)
        used = self._authority.header(scopes)
        response = send(url, used)
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._authority.renew(response, used, scopes):
            response.close()
            response = send(url, self._authority.header(scopes))
        return response

    def _accepted(self, response: requests.Response, *, absent_ok: bool) -> requests.Response:
        if not (absent_ok and response.status_code == HTTPStatus.NOT_FOUND):
            response.raise_for_status()
            refuse_web_page(response)
        return response

    def _redirected(self, method: str, response: requests.Response) -> str:
        """Return the next address.

        Raises:
            RedirectError: the redirect would turn the request into another one.
        """
        location = response.headers["Location"]
        # Only 307 and 308 keep method and body (RFC 9110, section 15.4); a sign-in page is often behind a 302.
        keeps = response.status_code in (HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT)
        url = self.address_in_header(location, _LOCATION, base=response.url)
        if method not in ("GET", "HEAD") and not keeps:
            text = f"the registry redirects it to {scrub(url)} ({response.status_code})"
            raise RedirectError(text, request=response.request, response=response)
        return url

    @contextmanager
    def explained(self, repository: str, right: str, doing: str) -> Iterator[None]:
        """Turn failed requests of the block into registry errors."""
        try:
            yield
        except requests.RequestException as error:
            raise self._failure(error, repository, doing, right).explained() from error

    def _failure(self, error: requests.RequestException, repository: str, doing: str, right: str) -> _Failure:
        answered = error.response.url if error.response is not None else None
        url = answered or (error.request.url if error.request is not None else None) or ""
        header = self._origins.get(_without_query(url))
        if _without_query(url) in self._authority.realms or (url and not header and not self._is_own(url)):
            header = _REALM
        name = f"{self.host}/{repository}"
        return _Failure(error=error, name=name, doing=doing, right=right, base=self.base, url=url, header=header)

    def _is_own(self, url: str) -> bool:
        return is_same_server(url, self.base)

    def address_in_header(self, location: str, header: str, *, base: str | None = None) -> str:
        """Return the address in a header of the registry's, relative to `base`, and remember the header for errors.

        Raises:
            AddressError: it is malformed.
        """
        url = self.absolute(location, base)
        self._origins[_without_query(url)] = header
        return url

    def absolute(self, location: str, base: str | None = None) -> str:
        """Return the address of a path or `Location`, relative to `base` (default: the registry's own address).

        Registries behind a proxy that ends TLS often answer with `http` addresses; those are changed back to `https`.

        Raises:
            AddressError: it is malformed.
        """
        url = joined(base or f"{self.base}/", location)
        if url is None:
            raise AddressError(f"the registry sends a malformed address, {scrub(repr(location[:_LONGEST_SHOWN]))}")
        if self.base.startswith("https://") and urlsplit(url).hostname == urlsplit(self.base).hostname:
            return url.replace("http://", "https://", 1) if url.startswith("http://") else url
        return url


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


def _without_query(url: str) -> str:
    return url.partition("?")[0].partition("#")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
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
        return self.name.partition("/")[0]

    @property
    def is_misled(self) -> bool:
        """Whether an address from the registry's headers is the likely cause."""
        if self.header is None or self.header == _REALM:
            return False
        if not is_same_server(self.url, self.base) or urlsplit(self.url).scheme != urlsplit(self.base).scheme:
            return True
        response = self.error.response
        unknown = response is not None and response.status_code in _UNKNOWN_ADDRESS
        return unknown or isinstance(self.error, WebPageError)

    @property
    def origin(self) -> str:
        """Where the failed address comes from, for the message; empty for the configured one."""
        if self.is_misled or self.header == _REALM:
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
        if self.header == _REALM:
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

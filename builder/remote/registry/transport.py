"""Requests to one registry: address, log-in, retries."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests import exceptions

from builder.remote.addresses import scrub
from builder.remote.answer_bodies import AddressError
from builder.remote.http import MOST_REDIRECTS, Retry, joined, reason
from builder.remote.registry.auth import Authority, set_authorization
from builder.remote.registry.reference import api_base
from builder.remote.registry.registry_failures import REALM, RedirectError, RequestFailure, is_same_server
from builder.remote.web_pages import refuse_web_page

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from builder.remote.registry.auth import CredentialSource

_T = TypeVar("_T")
_LOCATION = "Location"
_MOST_UPLOAD_REDIRECTS = 5

_LONGEST_SHOWN = 100


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

    def _failure(self, error: requests.RequestException, repository: str, doing: str, right: str) -> RequestFailure:
        answered = error.response.url if error.response is not None else None
        url = answered or (error.request.url if error.request is not None else None) or ""
        header = self._origins.get(_without_query(url))
        if _without_query(url) in self._authority.realms or (url and not header and not self._is_own(url)):
            header = REALM
        name = f"{self.host}/{repository}"
        return RequestFailure(error=error, name=name, doing=doing, right=right, base=self.base, url=url, header=header)

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


def _without_query(url: str) -> str:
    return url.partition("?")[0].partition("#")[0]

"""Requests to one registry: address, log-in, retries, errors."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests

from builder.remote.http import Retry
from builder.remote.registry.auth import Authority, Authorization
from builder.remote.registry.errors import explain
from builder.remote.registry.reference import api_base

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from builder.remote.registry.auth import CredentialSource


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

    def call(
        self, method: str, path: str, *, repository: str, right: str, doing: str, **options: Any
    ) -> requests.Response:
        """Send a request, with retries; `options` are those of `once`.

        Raises:
            RegistryError: the registry refused or could not be reached.
        """
        with self.explained(repository=repository, right=right, doing=doing):
            return self.retry.run(lambda: self.once(method, path, scopes=scopes_for(repository, right), **options))

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
        """Send a request once, logging in if the registry requires it; `body` is called for each attempt.

        Raises:
            requests.RequestException: any answer but 2xx, 3xx and, with `absent_ok`, 404.
        """
        url = self.absolute(path)

        def send(header: str | None) -> requests.Response:
            data = body() if body else None
            auth = Authorization(header if self._is_own(url) else None)
            return self._session.request(
                method, url, headers=dict(headers or {}), data=data, auth=auth, stream=stream, timeout=timeout
            )

        used = self._authority.header(scopes)
        response = send(used)
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._authority.renew(response, used, scopes):
            response.close()
            response = send(self._authority.header(scopes))
        if not (absent_ok and response.status_code == HTTPStatus.NOT_FOUND):
            response.raise_for_status()
        return response

    @contextmanager
    def explained(self, *, repository: str, right: str, doing: str) -> Iterator[None]:
        """Turn failed requests of the block into registry errors."""
        try:
            yield
        except requests.RequestException as error:
            raise explain(error, host=self.host, repository=repository, doing=doing, right=right) from error

    def absolute(self, location: str) -> str:
        """Return the address of a path or `Location`.

        Registries behind a proxy that ends TLS often answer with `http` addresses; those are changed back to `https`.
        """
        url = urljoin(f"{self.base}/", location)
        if self.base.startswith("https://") and urlsplit(url).hostname == urlsplit(self.base).hostname:
            return url.replace("http://", "https://", 1) if url.startswith("http://") else url
        return url

    def _is_own(self, url: str) -> bool:
        """Return whether an address is the registry's; an external store must not get its credentials."""
        return urlsplit(url).netloc == urlsplit(self.base).netloc

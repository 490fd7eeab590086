"""Requests to one registry: address, log-in, retries, and errors with hints for each status."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
from requests import exceptions

from builder.errors import RegistryError
from builder.remote.http import CA_HINT, Retry, is_untrusted, reason, scrub
from builder.remote.registry.auth import Authority, set_authorization
from builder.remote.registry.reference import api_base

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from builder.remote.registry.auth import CredentialSource

_LONGEST_DETAIL = 300
# By right: only a repeated push skips blobs.
_AGAIN = {"pull": "run the same command again", "push": "run the same command again: stored blobs are not sent again"}
_GATEWAY_FAULTS = frozenset({502, 503, 504})
_FULL = 507
_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
# Words of distribution, Harbor and Quay for full storage, in answers with other statuses than 507.
_FULL_WORDS = ("no space left", "quota", "insufficient storage", "storage limit")

_HINTS = {
    400: "the registry does not understand the request: is it a registry of API version 2?",
    401: "run `docker login {host}`, or set JBUILD_REGISTRY_USER and JBUILD_REGISTRY_PASSWORD",
    403: "the account may not {right} {name}: get the right, or log in with another account (`docker login {host}`)",
    404: "the registry does not have {name}, or not this tag: check both",
    413: "the registry or a proxy in front of it limits the size of requests: raise it (nginx: client_max_body_size)",
    429: "the registry limits requests: wait, log in (`docker login {host}`) for more, or add a mirror rule",
    507: "the registry is full: free some space there, then run the same command again",
}
_CREATED_FIRST = "; some registries require that the project or repository is created first"


class RegistryUnreachableError(RegistryError):
    """No answer: no connection, an unknown host, an untrusted certificate, or a gateway without its registry."""


class ImageMissingError(RegistryError):
    """The registry does not have the image."""


class BlobUnknownError(RegistryError):
    """The registry lacks a blob of an uploaded manifest."""


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
            return self.retry.run(lambda: self.once(method, address, scopes=scopes, **options))

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
        # An external store must not get the registry's credentials.
        is_own = urlsplit(url).netloc == urlsplit(self.base).netloc

        def send(header: str | None) -> requests.Response:
            data = body() if body else None
            auth = partial(set_authorization, header if is_own else None)
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
    def explained(self, repository: str, right: str, doing: str) -> Iterator[None]:
        """Turn failed requests of the block into registry errors."""
        try:
            yield
        except requests.RequestException as error:
            raise _explain(error, f"{self.host}/{repository}", doing, right) from error

    def absolute(self, location: str) -> str:
        """Return the address of a path or `Location`.

        Registries behind a proxy that ends TLS often answer with `http` addresses; those are changed back to `https`.
        """
        url = urljoin(f"{self.base}/", location)
        if self.base.startswith("https://") and urlsplit(url).hostname == urlsplit(self.base).hostname:
            return url.replace("http://", "https://", 1) if url.startswith("http://") else url
        return url


def _explain(error: requests.RequestException, name: str, doing: str, right: str) -> RegistryError:
    """Turn a failed request for the repository `name` into an error with a hint."""
    host, again, response = name.partition("/")[0], _AGAIN[right], error.response
    if not isinstance(error, exceptions.HTTPError) or response is None:
        hint = _unreachable_hint(error, host, again)
        return RegistryUnreachableError(f"{doing}: {reason(error)}", where=name, hint=hint)
    status, explanation = response.status_code, _detail(response)
    message = f"{doing}: the registry answers {status}" + (f" ({explanation})" if explanation else "")
    full = status == _FULL or any(word in explanation.lower() for word in _FULL_WORDS)
    if status in _GATEWAY_FAULTS and not full:
        return RegistryUnreachableError(message, where=name, hint=f"the registry is down or starting; {again}")
    if _BLOB_UNKNOWN in explanation:
        return BlobUnknownError(message, where=name, hint=again)
    # distribution answers "unknown error" when its disk is full.
    full_disk = " (is its disk full?)" if right == "push" else ""
    hint = _HINTS.get(_FULL if full else status, f"check the registry's log{full_disk}, then {again}")
    missing = status == HTTPStatus.NOT_FOUND
    if missing and right == "push":
        hint += _CREATED_FIRST
    kind = ImageMissingError if missing and right == "pull" else RegistryError
    return kind(message, where=name, hint=hint.format(host=host, name=name, right=right))


def _unreachable_hint(error: requests.RequestException, host: str, again: str) -> str:
    if is_untrusted(error):
        return CA_HINT
    if isinstance(error, exceptions.SSLError):
        return f'if {host} speaks plain HTTP, list it as `insecure = ["{host}"]` under [publish] in jbuild.toml'
    if isinstance(error, exceptions.ProxyError):
        return f"check HTTPS_PROXY and HTTP_PROXY, or add {host} to NO_PROXY"
    if "refused" in reason(error):
        return f"is the registry running at {host}, and is it the right port (HTTP or HTTPS)?"
    return f"check the name {host} and the network, then {again}"


def _detail(response: requests.Response) -> str:
    """Return the errors in a registry's answer (OCI distribution specification, "Error Codes"), or ""."""
    try:
        text = "; ".join(map(_error_text, response.json()["errors"]))
    except (ValueError, KeyError, TypeError, AttributeError, exceptions.RequestException):
        return ""
    return scrub(text)[:_LONGEST_DETAIL]


def _error_text(error: dict[str, Any]) -> str:
    extra = error.get("detail")
    values = (error.get("code"), error.get("message"), extra if isinstance(extra, str) else None)
    return ": ".join(str(value) for value in values if value)

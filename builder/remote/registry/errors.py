"""Errors of registries, with hints for each status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests import exceptions

from builder.errors import RegistryError
from builder.remote.http import CA_HINT, is_untrusted, reason, scrub

if TYPE_CHECKING:
    import requests

_LONGEST_DETAIL = 300
_MISSING = 404
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


def explain(error: requests.RequestException, *, host: str, repository: str, doing: str, right: str) -> RegistryError:
    """Turn a failed request into an error with a hint.

    `doing` is the failed step, such as "cannot read the manifest"; `right` is `pull` or `push`.
    """
    response = error.response
    if isinstance(error, exceptions.HTTPError) and response is not None:
        return _refused(response, host=host, repository=repository, doing=doing, right=right)
    return RegistryUnreachableError(
        f"{doing}: {reason(error)}", where=f"{host}/{repository}", hint=_unreachable_hint(error, host, _AGAIN[right])
    )


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


def _refused(response: requests.Response, *, host: str, repository: str, doing: str, right: str) -> RegistryError:
    status, explanation = response.status_code, detail(response)
    name = f"{host}/{repository}"
    message = f"{doing}: the registry answers {status}" + (f" ({explanation})" if explanation else "")
    full = status == _FULL or any(word in explanation.lower() for word in _FULL_WORDS)
    hint, again = _HINTS.get(_FULL if full else status), _AGAIN[right]
    if status in _GATEWAY_FAULTS and not full:
        return RegistryUnreachableError(message, where=name, hint=f"the registry is down or starting; {again}")
    if hint is None:
        # distribution answers "unknown error" when its disk is full.
        full_disk = " (is its disk full?)" if right == "push" else ""
        hint = f"check the registry's log{full_disk}, then {again}"
    if status == _MISSING and right == "push":
        hint += _CREATED_FIRST
    kind: type[RegistryError] = ImageMissingError if status == _MISSING and right == "pull" else RegistryError
    if _BLOB_UNKNOWN in explanation:
        kind, hint = BlobUnknownError, again
    return kind(message, where=name, hint=hint.format(host=host, name=name, right=right))


def detail(response: requests.Response) -> str:
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

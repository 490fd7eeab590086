"""What can go wrong with a registry, in words that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests import exceptions

from builder.errors import RegistryError
from builder.remote.http import CA_HINT, is_untrusted, reason, scrub

if TYPE_CHECKING:
    import requests

_LONGEST_DETAIL = 300
_MISSING = 404
# By right: a push that is tried again sends only what is missing, which says nothing to who reads.
_AGAIN = {"pull": "run the same command again", "push": "run the same command again: what is there is not sent again"}
_GATEWAY_FAULTS = frozenset({502, 503, 504})
_FULL = 507
_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
# Words by which registries (distribution, Harbor, Quay) say that they are full while answering another status.
_FULL_WORDS = ("no space left", "quota", "insufficient storage", "storage limit")

_HINTS = {
    400: "the registry does not understand the request: is it a registry of API version 2?",
    401: "run `docker login {host}`, or set JBUILD_REGISTRY_USER and JBUILD_REGISTRY_PASSWORD",
    403: "the account may not {right} {name}: ask for the right, or log in as somebody else (`docker login {host}`)",
    404: "the registry knows no {name}, or not this tag of it: check both",
    413: "the registry or a proxy before it limits a request's size: raise that (nginx: client_max_body_size)",
    429: "the registry limits requests: wait, log in (`docker login {host}`) for more, or add a mirror rule",
    507: "the registry is full: free some space there, then run the same command again",
}
_CREATED_FIRST = "; some registries want the project or repository created first"


class RegistryUnreachableError(RegistryError):
    """Nobody answered: no connection, no such host, no trusted certificate, or only a gateway without its registry."""


class ImageMissingError(RegistryError):
    """The registry answered that it holds no such image."""


class BlobUnknownError(RegistryError):
    """The registry does not find a blob of a manifest that is put."""


def explain(error: requests.RequestException, *, host: str, repository: str, doing: str, right: str) -> RegistryError:
    """Turn a failed request into the error that people see.

    `doing` is what failed, such as "cannot read the manifest"; `right` is `pull` or `push`.
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
    status, said = response.status_code, detail(response)
    name = f"{host}/{repository}"
    message = f"{doing}: the registry answers {status}" + (f" ({said})" if said else "")
    full = status == _FULL or any(word in said.lower() for word in _FULL_WORDS)
    hint, again = _HINTS.get(_FULL if full else status), _AGAIN[right]
    if status in _GATEWAY_FAULTS and not full:
        return RegistryUnreachableError(message, where=name, hint=f"the registry is down or starting; {again}")
    if hint is None:
        # distribution says no more than "unknown error" when its disk is full.
        full_disk = " (is its disk full?)" if right == "push" else ""
        hint = f"look into the registry's log{full_disk}, then {again}"
    if status == _MISSING and right == "push":
        hint += _CREATED_FIRST
    kind: type[RegistryError] = ImageMissingError if status == _MISSING and right == "pull" else RegistryError
    if _BLOB_UNKNOWN in said:
        kind, hint = BlobUnknownError, again
    return kind(message, where=name, hint=hint.format(host=host, name=name, right=right))


def detail(response: requests.Response) -> str:
    """Return what a registry says about an error (OCI distribution specification, "Error Codes"), or ""."""
    try:
        errors = response.json()["errors"]
        said = "; ".join(_one(error) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError, exceptions.RequestException):
        return ""
    return scrub(said)[:_LONGEST_DETAIL]


def _one(error: dict[str, Any]) -> str:
    extra = error.get("detail")
    parts = (error.get("code"), error.get("message"), extra if isinstance(extra, str) else None)
    return ": ".join(str(part) for part in parts if part)

"""Errors of model hubs, with hints."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import requests
from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from builder.errors import JbuildError, ModelError, NetworkError
from builder.model.model_files import shown
from builder.remote import http

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.remote.hub.model_sources import HubSource

_OTHER_HUB = (
    "set HF_ENDPOINT, or hub.endpoint in jbuild.toml, to a hub that can be reached, "
    "or map the model to a folder with [[model-mirrors]]"
)
# Includes the base class of the client's HTTP library.
_CLIENT_FAILURES: tuple[type[Exception], ...] = (
    OSError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)


def token_header() -> dict[str, str]:
    """Return the Authorization header of HF_TOKEN or `hf auth login`; empty without a log-in."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def hub_errors(source: HubSource) -> Iterator[None]:
    """Turn failed requests of the block into errors with hints.

    Raises:
        ModelError, NetworkError: the meaning of the hub's last answer.
    """
    try:
        yield
    except requests.HTTPError as error:
        if error.response is None:
            raise _unreachable(source, http.reason(error)) from error
        raise refusal(source, error.response.status_code, error.response.headers) from error
    except requests.RequestException as error:
        hint = http.CA_HINT if http.is_untrusted(error) else None
        raise _unreachable(source, http.reason(error), hint) from error


def refusal(source: HubSource, status: int, answer: Mapping[str, str]) -> JbuildError:
    """Turn a hub's answer into an error."""
    page = f"{source.address}/{source.repository}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ModelError(f"the hub refuses {source.uri} ({status})", where=page, hint=_permission_hint(page))
    if status == HTTPStatus.NOT_FOUND:
        return _not_found(source, answer.get("X-Error-Code"), page)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        hint = f"wait a few minutes and run it again; HF_TOKEN raises the limit; else {_OTHER_HUB}"
        return NetworkError(f"the hub at {source.address} limits requests (429)", where=page, hint=hint)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        hint = f"run it again later, or {_OTHER_HUB}"
        return NetworkError(f"the hub at {source.address} answers {status}", where=page, hint=hint)
    explanation = shown(answer.get("X-Error-Message", ""))
    message = f"the hub refuses {source.uri} ({status})" + (f": {explanation}" if explanation else "")
    return ModelError(message, where=page, hint="open that page in a browser")


def _not_found(source: HubSource, code: str | None, page: str) -> ModelError:
    if code == "RevisionNotFound":
        message = f"the hub has no revision `{source.revision}` of {source.repository}"
        hint = "correct the revision after @ in `source`: a branch, tag or commit of that page"
        return ModelError(message, where=page, hint=hint)
    if code == "EntryNotFound":
        hint = "the model changed while it was read: run `jbuild lock` again"
        return ModelError(f"a file of {source.uri} is no longer on the hub", where=page, hint=hint)
    return ModelError(
        f"the hub has no model {source.repository} (revision `{source.revision}`)",
        where=page,
        hint="correct `source` in the recipe; if the model is private, set HF_TOKEN",
    )


def _permission_hint(page: str) -> str:
    if token_header():
        return f"accept the model's licence at {page} with the account of your HF_TOKEN, and let the token read it"
    return (
        f"accept the model's licence at {page}, then set HF_TOKEN to a token of that account; "
        "hubs also give this answer for names that do not exist"
    )


def _unreachable(source: HubSource, reason: str, hint: str | None = None) -> NetworkError:
    message = f"the hub at {http.scrub(source.address)} cannot be reached: {reason}"
    return NetworkError(message, where=source.uri, hint=hint or _OTHER_HUB)


def not_a_hub(source: HubSource, reason: str) -> NetworkError:
    """Return the error for a server that is not a hub."""
    message = f"the server at {source.address} is not a model hub"
    hint = f"it may be a proxy's login page; otherwise {_OTHER_HUB}"
    return NetworkError(message, where=source.uri, hint=hint, log=reason)


@contextmanager
def as_requests_does(source: HubSource) -> Iterator[None]:
    """Turn failures of the hub's client into those of `requests`; its HTTP library depends on its version."""
    try:
        yield
    except HFValidationError as error:
        hint = "write hf://organisation/name@revision"
        raise ModelError(f"not the name of a model: {error}", hint=hint) from error
    except HfHubHTTPError as error:
        raise requests.HTTPError(response=_response(error.response)) from error
    except requests.exceptions.InvalidJSONError as error:
        raise not_a_hub(source, str(error)) from error
    except requests.RequestException:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # The client does not check that a server which answers 200 is a hub.
        raise not_a_hub(source, str(error)) from error
    except _CLIENT_FAILURES as error:
        raise _connection_failure(error) from error


def _connection_failure(error: Exception) -> requests.RequestException:
    if "timeout" in type(error).__name__.lower():
        return requests.Timeout(error)
    lost = requests.ConnectionError(error)
    return requests.exceptions.SSLError(error) if http.is_untrusted(lost) else lost


def _response(answer: Any) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status_code
    response.reason = HTTPStatus(answer.status_code).phrase if answer.status_code in set(HTTPStatus) else ""
    response.headers.update(dict(answer.headers))
    return response

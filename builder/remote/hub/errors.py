"""What a hub's refusals and failures mean, and what to do about them."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import requests
from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from builder.errors import JbuildError, ModelError, NetworkError
from builder.model.model_files import printable_path
from builder.remote import http

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.remote.hub.model_sources import HubSource

_OTHER_HUB = (
    "set HF_ENDPOINT, or hub.endpoint in jbuild.toml, to a hub that can be reached, "
    "or map the model to a folder with [[model-mirrors]]"
)
# The base classes of an HTTP failure are those of the client's HTTP library.
_CLIENT_FAILURES: tuple[type[Exception], ...] = (
    OSError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)


def token_header() -> dict[str, str]:
    """Return the header that says who asks, by HF_TOKEN or `hf auth login`; empty if nobody is logged in."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def hub_errors(place: HubSource) -> Iterator[None]:
    """Turn the failed requests below into errors that say what to do.

    Raises:
        ModelError, NetworkError: what the hub's last answer means.
    """
    try:
        yield
    except requests.HTTPError as error:
        if error.response is None:
            raise _unreachable(place, http.reason(error)) from error
        raise refusal(place, error.response.status_code, error.response.headers) from error
    except requests.RequestException as error:
        hint = http.CA_HINT if http.is_untrusted(error) else None
        raise _unreachable(place, http.reason(error), hint) from error


def refusal(place: HubSource, status: int, answer: Mapping[str, str]) -> JbuildError:
    """Turn a hub's answer into an error."""
    page = f"{place.address}/{place.repository}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ModelError(f"the hub refuses {place.source} ({status})", where=page, hint=_permission_hint(page))
    if status == HTTPStatus.NOT_FOUND:
        return _not_found(place, answer.get("X-Error-Code"), page)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        hint = f"wait a few minutes and run it again; HF_TOKEN raises the limit; else {_OTHER_HUB}"
        return NetworkError(f"the hub at {place.address} wants fewer requests (429)", where=page, hint=hint)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        hint = f"run it again later, or {_OTHER_HUB}"
        return NetworkError(f"the hub at {place.address} answers {status}", where=page, hint=hint)
    said = printable_path(answer.get("X-Error-Message", ""))
    message = f"the hub refuses {place.source} ({status})" + (f": {said}" if said else "")
    return ModelError(message, where=page, hint="look at that page in a browser")


def _not_found(place: HubSource, code: str | None, page: str) -> ModelError:
    if code == "RevisionNotFound":
        message = f"the hub has no revision `{place.revision}` of {place.repository}"
        hint = "correct the part after @ in `source`: a branch, tag or commit of that page"
        return ModelError(message, where=page, hint=hint)
    if code == "EntryNotFound":
        hint = "the model changed while it was read: run `jbuild lock` again"
        return ModelError(f"a file of {place.source} is no longer on the hub", where=page, hint=hint)
    return ModelError(
        f"the hub has no model {place.repository} (revision `{place.revision}`)",
        where=page,
        hint="correct `source` in the recipe; if the model is private, set HF_TOKEN",
    )


def _permission_hint(page: str) -> str:
    if token_header():
        return f"accept the model's licence at {page} with the account of your HF_TOKEN, and let the token read it"
    return (
        f"accept the model's licence at {page}, then set HF_TOKEN to a token of that account; "
        "a hub answers the same for a name that does not exist"
    )


def _unreachable(place: HubSource, reason: str, hint: str | None = None) -> NetworkError:
    where = http.scrub(place.address)
    return NetworkError(f"the hub at {where} cannot be reached: {reason}", where=place.source, hint=hint or _OTHER_HUB)


def no_hub(place: HubSource, reason: str) -> NetworkError:
    """Return the error for a server that answers, but not as a hub."""
    message = f"the server at {place.address} does not answer as a model hub does"
    hint = f"a proxy's login page, perhaps; else {_OTHER_HUB}"
    return NetworkError(message, where=place.source, hint=hint, log=reason)


@contextmanager
def as_requests_does(place: HubSource) -> Iterator[None]:
    """Turn the failures of the hub's client, whose HTTP library depends on its version, into those of `requests`."""
    try:
        yield
    except HFValidationError as error:
        hint = "write hf://organisation/name@revision"
        raise ModelError(f"this is no name of a model: {error}", hint=hint) from error
    except HfHubHTTPError as error:
        raise requests.HTTPError(response=_response(error.response)) from error
    except requests.exceptions.InvalidJSONError as error:
        raise no_hub(place, str(error)) from error
    except requests.RequestException:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # The client takes for granted that whatever answers 200 is a hub.
        raise no_hub(place, str(error)) from error
    except _CLIENT_FAILURES as error:
        raise _connection_failure(error) from error


def _connection_failure(error: Exception) -> requests.RequestException:
    if "timeout" in type(error).__name__.lower():
        return requests.Timeout(error)
    lost = requests.ConnectionError(error)
    return requests.exceptions.SSLError(error) if http.is_untrusted(lost) else lost


def _response(answer: Any) -> requests.Response:
    made = requests.Response()
    made.status_code = answer.status_code
    made.reason = HTTPStatus(answer.status_code).phrase if answer.status_code in set(HTTPStatus) else ""
    made.headers.update(dict(answer.headers))
    return made

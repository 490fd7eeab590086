"""Models on hubs: the files at one commit, and their download.

`huggingface_hub` knows addresses, tokens and answers. `builder.remote.http` downloads, since that library cannot store
bytes once, resume within a file, and check them against a lock.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import requests
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from builder.errors import IntegrityError, JbuildError, ModelError, NetworkError
from builder.host.config import build_ca_bundle
from builder.model import patterns
from builder.model.model_files import HubFile, HubListing, path_flaw, printable_path
from builder.remote import http
from builder.remote.download import receive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from huggingface_hub.hf_api import ModelInfo

    from builder.host.config import Config
    from builder.remote.download import PartialFile
    from builder.remote.hub.model_sources import HubSource

_LISTING_TIMEOUT_S = 60.0
_COMMIT = r"[0-9a-f]{40}([0-9a-f]{24})?"
_OTHER_HUB = (
    "set HF_ENDPOINT, or hub.endpoint in jbuild.toml, to a hub that can be reached, "
    "or map the model to a folder with [[model-mirrors]]"
)
# Includes the base class of the client's HTTP library.
_CLIENT_FAILURES: tuple[type[Exception], ...] = (
    OSError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFetcher:
    """A file of a model on a hub."""

    source: HubSource
    file: HubFile
    session: requests.Session

    @property
    def uri(self) -> str:
        """The model as recipes write it."""
        return self.source.uri

    def fetch(self, content: PartialFile) -> None:
        """Append the missing bytes.

        Raises:
            ModelError, NetworkError: the hub refuses or cannot be reached.
        """
        get = partial(self.session.get, self._address, auth=_authorised, stream=True)
        with _hub_errors(self.source):
            receive(lambda headers: get(headers=headers), content, http.Retry(sleep=content.progress.token.sleep))

    def mismatch(self, content: PartialFile) -> IntegrityError:
        """Return the error for other bytes."""
        return IntegrityError(
            f"{self.file.path} of {self.uri} does not have its hash or size: {content.flaw()}",
            where=http.scrub(self._address),
            hint="a proxy or mirror may have changed it: run it again, or set HF_ENDPOINT to another hub",
        )

    @property
    def _address(self) -> str:
        source = self.source
        return str(hf_hub_url(source.repository, self.file.path, revision=source.revision, endpoint=source.address))


def _authorised(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Set the token as requests' `auth`; otherwise a password for the hub's git in ~/.netrc would replace it."""
    request.headers.update(_token_header())
    return request


def list_files(source: HubSource, config: Config, retry: http.Retry) -> HubListing:
    """Return the files of a model and the present commit of its revision.

    Raises:
        ModelError: the hub has no such model or revision, or refuses it.
        NetworkError: the hub cannot be reached, or the server is not a hub.
    """
    require_online(source)
    api = HfApi(endpoint=source.address, library_name="jbuild")

    def ask() -> ModelInfo:
        # The client's error for an invalid address is not one of its HTTP errors.
        requests.Request("GET", source.address).prepare()
        with _certificates(config), _failures_of_requests(source):
            return api.model_info(
                source.repository, revision=source.revision, files_metadata=True, timeout=_LISTING_TIMEOUT_S
            )

    with _hub_errors(source):
        info = retry.run(ask)
    try:
        return _listing(info)
    except (TypeError, ValueError, AttributeError) as error:
        raise _not_a_hub(source, str(error)) from error


def require_online(source: HubSource) -> None:
    """Respect HF_HUB_OFFLINE.

    Raises:
        NetworkError: HF_HUB_OFFLINE is set.
    """
    if constants.HF_HUB_OFFLINE:
        hint = "unset HF_HUB_OFFLINE, or map the model to a folder with [[model-mirrors]] in jbuild.toml"
        raise NetworkError("HF_HUB_OFFLINE is set, and the model is not cached", where=source.uri, hint=hint)


def _listing(info: ModelInfo) -> HubListing:
    commit = info.sha or ""
    if not re.fullmatch(_COMMIT, commit):
        raise ValueError(f"no commit: {commit!r}")
    files = tuple(_file(sibling) for sibling in info.siblings or ())
    tags = (tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:"))
    licence = next(iter(tags), "")
    return HubListing(commit=commit, licence=licence if re.fullmatch(patterns.LICENCE, licence) else None, files=files)


def _file(sibling: Any) -> HubFile:
    path, large = sibling.rfilename, sibling.lfs
    if flaw := path_flaw(path):
        raise ModelError(
            f"the hub lists a file that {flaw}: {printable_path(path)}", hint="use another copy of the model"
        )
    sha256, size = (large.sha256, large.size) if large else (None, sibling.size)
    if not isinstance(size, int) or (sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256)):
        raise ValueError(f"no size or hash of {path}")
    git_id = sibling.blob_id if re.fullmatch(r"[0-9a-f]{40}", sibling.blob_id or "") else None
    return HubFile(path=path, size=size, sha256=sha256, git_id=git_id)


@contextmanager
def _certificates(config: Config) -> Iterator[None]:
    """Set the certificates in the environment, where both HTTP libraries of the hub's client look for them."""
    bundle = build_ca_bundle(config)
    names = [name for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if bundle and name not in os.environ]
    os.environ.update(dict.fromkeys(names, str(bundle)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)


def _token_header() -> dict[str, str]:
    """Return the Authorization header of HF_TOKEN or `hf auth login`; empty without a log-in."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def _hub_errors(source: HubSource) -> Iterator[None]:
    """Turn failed requests of the block into errors with hints."""
    try:
        yield
    except requests.HTTPError as error:
        if error.response is None:
            raise _unreachable(source, http.reason(error)) from error
        raise _refusal(source, error.response.status_code, error.response.headers) from error
    except requests.RequestException as error:
        hint = http.CA_HINT if http.is_untrusted(error) else None
        raise _unreachable(source, http.reason(error), hint) from error


def _refusal(source: HubSource, status: int, answer: Mapping[str, str]) -> JbuildError:
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
    explanation = printable_path(answer.get("X-Error-Message", ""))
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
    if _token_header():
        return f"accept the model's licence at {page} with the account of your HF_TOKEN, and let the token read it"
    return (
        f"accept the model's licence at {page}, then set HF_TOKEN to a token of that account; "
        "hubs also give this answer for names that do not exist"
    )


def _unreachable(source: HubSource, reason: str, hint: str | None = None) -> NetworkError:
    message = f"the hub at {http.scrub(source.address)} cannot be reached: {reason}"
    return NetworkError(message, where=source.uri, hint=hint or _OTHER_HUB)


def _not_a_hub(source: HubSource, reason: str) -> NetworkError:
    """Return the error for a server that is not a hub."""
    message = f"the server at {source.address} is not a model hub"
    hint = f"it may be a proxy's login page; otherwise {_OTHER_HUB}"
    return NetworkError(message, where=source.uri, hint=hint, log=reason)


@contextmanager
def _failures_of_requests(source: HubSource) -> Iterator[None]:
    """Turn failures of the hub's client into those of `requests`; its HTTP library depends on its version."""
    try:
        yield
    except HFValidationError as error:
        hint = "write hf://organisation/name@revision"
        raise ModelError(f"not the name of a model: {error}", hint=hint) from error
    except HfHubHTTPError as error:
        raise requests.HTTPError(response=_response(error.response)) from error
    except requests.exceptions.InvalidJSONError as error:
        raise _not_a_hub(source, str(error)) from error
    except requests.RequestException:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # The client does not check that a server which answers 200 is a hub.
        raise _not_a_hub(source, str(error)) from error
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

"""Models on hubs: the files at one commit, and their download.

`huggingface_hub` knows addresses, tokens and answers. `builder.remote.http` sends all requests, since that library
cannot store bytes once, resume within a file, and check them against a lock.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests
from huggingface_hub import constants, get_token, hf_hub_url
from huggingface_hub.errors import HFValidationError

from builder.errors import IntegrityError, JbuildError, ModelError, NetworkError
from builder.host.json_documents import decode_json
from builder.model import patterns
from builder.model.model_files import HubFile, HubListing, path_flaw, printable_path
from builder.remote import answer_bodies, http, web_pages
from builder.remote.addresses import scrub
from builder.remote.download import receive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.config import Config
    from builder.remote.download import PartialFile
    from builder.remote.model_sources import HubSource

_COMMIT = r"[0-9a-f]{40}([0-9a-f]{24})?"
# A web page with such a status is a website's or a proxy's; hubs explain their refusals in these headers.
_WEBSITE = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, 511)
_HUB_HEADERS = ("X-Error-Code", "X-Error-Message", "X-Request-Id")
_OTHER_HUB = (
    "set HF_ENDPOINT, or hub.endpoint in jbuild.toml, to a hub that can be reached, "
    "or map the model to a folder with [[model-mirrors]]"
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
        with _hub_errors(self.source):
            receive(
                lambda headers: self.session.get(self._address, headers=headers, auth=_authorised, stream=True),
                content,
                http.Retry(sleep=content.progress.token.sleep),
            )

    def beginning(self, length: int) -> bytes:
        """Return the first bytes of the file, without the rest.

        Raises:
            ModelError, NetworkError: the hub refuses or cannot be reached.
        """
        headers = {"Range": f"bytes=0-{length - 1}", "Accept-Encoding": "identity"}

        def ask() -> bytes:
            with self.session.get(self._address, headers=headers, auth=_authorised, stream=True) as answer:
                answer.raise_for_status()
                content = bytearray()
                # A server without ranges sends the whole file, of which the rest is not read.
                for block in answer_bodies.arriving(web_pages.refuse_web_page(answer), length):
                    content += block
                    if len(content) >= length:
                        break
                return bytes(content[:length])

        with _hub_errors(self.source):
            return http.Retry().run(ask)

    def mismatch(self, content: PartialFile) -> IntegrityError:
        """Return the error for other bytes."""
        return IntegrityError(
            f"{self.file.path} of {self.uri} does not have its hash or size: {content.flaw()}",
            where=scrub(self._address),
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
    try:
        # Only for its check of the model's name.
        hf_hub_url(source.repository, "config.json")
    except HFValidationError as error:
        hint = "write hf://organisation/name@revision"
        raise ModelError(f"not the name of a model: {error}", hint=hint) from error
    address = f"{source.address}/api/models/{source.repository}/revision/{quote(source.revision, safe='')}"
    session = http.session(config)

    def ask() -> requests.Response:
        answer = session.get(address, params={"blobs": "true"}, auth=_authorised)
        answer.raise_for_status()
        return answer

    with _hub_errors(source):
        answer = retry.run(ask)
    try:
        return _listing(decode_json(answer.content))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        found = str(web_pages.WebPageError(answer)) if web_pages.is_web_page(answer) else str(error)
        raise _not_hub(source, found) from error


def require_online(source: HubSource) -> None:
    """Respect HF_HUB_OFFLINE.

    Raises:
        NetworkError: HF_HUB_OFFLINE is set.
    """
    if constants.HF_HUB_OFFLINE:
        hint = "unset HF_HUB_OFFLINE, or map the model to a folder with [[model-mirrors]] in jbuild.toml"
        raise NetworkError("HF_HUB_OFFLINE is set, and the model is not cached", where=source.uri, hint=hint)


def _listing(document: dict[str, Any]) -> HubListing:
    commit = document["sha"]
    if not re.fullmatch(_COMMIT, commit):
        raise ValueError(f"no commit: {commit!r}")
    files = tuple(_file(sibling) for sibling in document.get("siblings") or ())
    tags = (tag.removeprefix("license:") for tag in document.get("tags") or () if tag.startswith("license:"))
    licence = next(iter(tags), "")
    return HubListing(commit=commit, licence=licence if re.fullmatch(patterns.LICENCE, licence) else None, files=files)


def _file(sibling: dict[str, Any]) -> HubFile:
    path, large, blob = sibling["rfilename"], sibling.get("lfs"), sibling.get("blobId") or ""
    if flaw := path_flaw(path):
        raise ModelError(
            f"the hub lists a file that {flaw}: {printable_path(path)}", hint="use another copy of the model"
        )
    sha256, size = (large["sha256"], large["size"]) if large else (None, sibling.get("size"))
    if type(size) is not int or size < 0 or (sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256)):
        raise ValueError(f"no size or hash of {path}")
    return HubFile(path=path, size=size, sha256=sha256, git_id=blob if re.fullmatch(r"[0-9a-f]{40}", blob) else None)


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
        raise _refusal(source, error.response) from error
    except web_pages.WebPageError as error:
        raise _not_hub(source, str(error)) from error
    except requests.RequestException as error:
        message = f"the hub at {scrub(source.address)} cannot be reached: {http.reason(error)}"
        hint = http.CA_HINT if http.is_untrusted(error) else _OTHER_HUB
        raise NetworkError(message, where=source.uri, hint=hint) from error


def _not_hub(source: HubSource, found: str) -> NetworkError:
    hint = f"it may be a proxy's login page: open {scrub(source.address)} in a browser; otherwise {_OTHER_HUB}"
    return NetworkError(f"the server at {source.address} is not a model hub", where=source.uri, hint=hint, log=found)


def _refusal(source: HubSource, response: requests.Response) -> JbuildError:
    """Turn a hub's answer into an error."""
    page, status, answer = f"{source.address}/{source.repository}", response.status_code, response.headers
    if status in _WEBSITE and web_pages.is_web_page(response) and not any(name in answer for name in _HUB_HEADERS):
        return _not_hub(source, str(web_pages.WebPageError(response)))
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ModelError(f"the hub refuses {source.uri} ({status})", where=page, hint=_permission_hint(page))
    if status == HTTPStatus.NOT_FOUND:
        return _not_found(source, answer.get("X-Error-Code"), page)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        hint = f"wait a few minutes and run it again; HF_TOKEN raises the limit; else {_OTHER_HUB}"
        message = f"the hub at {source.address} limits requests (429){http.asked_wait(response)}"
        return NetworkError(message, where=page, hint=hint)
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

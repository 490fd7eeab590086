"""A model on a hub: its files at one commit, and what the hub's refusals mean.

Addresses, tokens and answers are the business of `huggingface_hub`. What it cannot do is done by `builder.remote.http`:
store bytes once, resume within a file, and check them against a lock.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import requests
from huggingface_hub import HfApi, constants, hf_hub_url

from builder.errors import IntegrityError, ModelError, NetworkError
from builder.host.config import build_ca_bundle
from builder.model import patterns
from builder.model.model_files import HubFile, HubListing, path_flaw, printable_path
from builder.remote import http
from builder.remote.download import receive
from builder.remote.hub.errors import as_requests_does, hub_errors, no_hub, token_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub.hf_api import ModelInfo

    from builder.host.config import Config
    from builder.remote.download import PartialFile
    from builder.remote.hub.model_sources import HubSource

_LISTING_TIMEOUT_S = 60.0
_COMMIT = r"[0-9a-f]{40}([0-9a-f]{24})?"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFetcher:
    """A file of a model on a hub."""

    place: HubSource
    file: HubFile
    session: requests.Session

    @property
    def source(self) -> str:
        """The model as recipes write it."""
        return self.place.source

    def fetch(self, content: PartialFile) -> None:
        """Append what is missing.

        Raises:
            ModelError, NetworkError: the hub refuses or cannot be reached.
        """
        get = partial(self.session.get, self._address, auth=_authorised, stream=True)
        with hub_errors(self.place):
            receive(lambda headers: get(headers=headers), content, http.Retry(sleep=content.progress.token.sleep))

    def mismatch(self, content: PartialFile) -> IntegrityError:
        """Return the error for other bytes."""
        return IntegrityError(
            f"{self.file.path} of {self.source} is not the file that it should be: {content.flaw()}",
            where=http.scrub(self._address),
            hint="a proxy or mirror may have changed it: run it again, or set HF_ENDPOINT to another hub",
        )

    @property
    def _address(self) -> str:
        place = self.place
        return str(hf_hub_url(place.repository, self.file.path, revision=place.revision, endpoint=place.address))


def _authorised(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """As headers alone, a password for the hub's git in ~/.netrc would replace them."""
    request.headers.update(token_header())
    return request


def list_files(place: HubSource, config: Config, retry: http.Retry) -> HubListing:
    """Return the files of a model and the commit that its revision stands for now.

    Raises:
        ModelError: the hub has no such model or revision, or refuses it.
        NetworkError: the hub cannot be reached or does not answer as a hub.
    """
    require_online(place)
    api = HfApi(endpoint=place.address, library_name="jbuild")

    def ask() -> ModelInfo:
        # The client's own error for an address that is none is not among its HTTP errors.
        requests.Request("GET", place.address).prepare()
        with _certificates(config), as_requests_does(place):
            return api.model_info(
                place.repository, revision=place.revision, files_metadata=True, timeout=_LISTING_TIMEOUT_S
            )

    with hub_errors(place):
        info = retry.run(ask)
    try:
        return _listing(info)
    except (TypeError, ValueError, AttributeError) as error:
        raise no_hub(place, str(error)) from error


def require_online(place: HubSource) -> None:
    """Respect HF_HUB_OFFLINE.

    Raises:
        NetworkError: the user wants no connections to hubs.
    """
    if constants.HF_HUB_OFFLINE:
        hint = "unset HF_HUB_OFFLINE, or map the model to a folder with [[model-mirrors]] in jbuild.toml"
        raise NetworkError("HF_HUB_OFFLINE is set, and the model is not here yet", where=place.source, hint=hint)


def _listing(info: ModelInfo) -> HubListing:
    commit = info.sha or ""
    if not re.fullmatch(_COMMIT, commit):
        raise ValueError(f"no commit: {commit!r}")
    files = tuple(_file(sibling) for sibling in info.siblings or ())
    tags = (tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:"))
    licence = next(iter(tags), None)
    known = licence and re.fullmatch(patterns.LICENCE, licence)
    return HubListing(commit=commit, licence=licence if known else None, files=files)


def _file(sibling: Any) -> HubFile:
    path, size, large = sibling.rfilename, sibling.size, sibling.lfs
    flaw = path_flaw(path)
    if flaw:
        raise ModelError(
            f"the hub lists a file that {flaw}: {printable_path(path)}", hint="use another copy of the model"
        )
    sha256 = large.sha256 if large else None
    size = large.size if large else size
    if not isinstance(size, int) or (sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256)):
        raise ValueError(f"no size or hash of {path}")
    git_id = sibling.blob_id if re.fullmatch(r"[0-9a-f]{40}", sibling.blob_id or "") else None
    return HubFile(path=path, size=size, sha256=sha256, git_id=git_id)


@contextmanager
def _certificates(config: Config) -> Iterator[None]:
    """The hub's client has no setting for certificates; both of its HTTP libraries take them from the environment."""
    bundle = build_ca_bundle(config)
    names = [name for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if bundle and name not in os.environ]
    os.environ.update(dict.fromkeys(names, str(bundle)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)

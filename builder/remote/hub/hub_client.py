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
from typing import TYPE_CHECKING, Any

import requests
from huggingface_hub import HfApi, constants, hf_hub_url

from builder.errors import IntegrityError, ModelError, NetworkError
from builder.host.config import build_ca_bundle
from builder.model import patterns
from builder.model.model_files import HubFile, HubListing, path_flaw, shown
from builder.remote import http
from builder.remote.download import receive
from builder.remote.hub.errors import as_requests_does, hub_errors, not_a_hub, token_header

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
        with hub_errors(self.source):
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
    request.headers.update(token_header())
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
        with _certificates(config), as_requests_does(source):
            return api.model_info(
                source.repository, revision=source.revision, files_metadata=True, timeout=_LISTING_TIMEOUT_S
            )

    with hub_errors(source):
        info = retry.run(ask)
    try:
        return _listing(info)
    except (TypeError, ValueError, AttributeError) as error:
        raise not_a_hub(source, str(error)) from error


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
    path, size, large = sibling.rfilename, sibling.size, sibling.lfs
    flaw = path_flaw(path)
    if flaw:
        raise ModelError(f"the hub lists a file that {flaw}: {shown(path)}", hint="use another copy of the model")
    sha256 = large.sha256 if large else None
    size = large.size if large else size
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

"""A model in a registry: an OCI artifact whose layers are files, each named by its title, as ORAS pushes them.

The title is `org.opencontainers.image.title` of the OCI image specification, "Annotations".
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import IntegrityError, ModelError
from builder.model import patterns
from builder.model.model_files import HubFile, HubListing, path_flaw, shown
from builder.remote.registry.errors import ImageMissingError
from builder.remote.registry.reference import DIGEST_PATTERN
from builder.remote.registry.registry_client import INDEXES, RegistryClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.remote.download import PartialFile
    from builder.remote.hub.model_sources import RegistrySource

TITLE = "org.opencontainers.image.title"
_LICENCES = "org.opencontainers.image.licenses"
# ORAS packs a folder into an archive and says so with this.
_UNPACK = "io.deis.oras.content.unpack"
_PUSH = "push the files of the model's folder one by one: `cd FOLDER && oras push HOST/NAME:TAG $(find . -type f)`"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryFetcher:
    """A file of a model in a registry."""

    place: RegistrySource
    file: HubFile
    client: RegistryClient

    @property
    def source(self) -> str:
        """The model as recipes write it."""
        return self.place.source

    def fetch(self, content: PartialFile) -> None:
        """Append what is missing.

        Raises:
            ModelError: the registry does not have the file any more.
            RegistryError: the registry refuses or cannot be reached.
        """
        with _missing(self.place, self.file.path):
            self.client.fetch_blob(self.place.reference.repository, f"sha256:{self.file.sha256}", content)

    def mismatch(self, content: PartialFile) -> IntegrityError:
        """Return the error for other bytes."""
        return IntegrityError(
            f"{self.file.path} of {self.source} is not the file that it should be: {content.flaw()}",
            where=str(self.place.reference),
            hint="the registry, or a cache in front of it, is damaged: repair it, then run this again",
        )


def list_files(place: RegistrySource, client: RegistryClient) -> HubListing:
    """Return the files of a model, the digest of its manifest, and its licence.

    Raises:
        ModelError: the registry lacks it, or it is no artifact of files.
        RegistryError: the registry does not answer, or refuses.
    """
    with _missing(place):
        content, descriptor = client.get_manifest(place.reference.repository, place.reference.tag_or_digest)
    if descriptor.media_type in INDEXES:
        raise _no_model(place, "it is an index of several images")
    try:
        document = json.loads(content)
        files = tuple(_file(place, layer) for layer in document["layers"])
        licence = str((document.get("annotations") or {}).get(_LICENCES) or "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_model(place, "its manifest cannot be understood") from error
    paths = [file.path for file in files]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise _no_model(place, f"two of its files are called {twice}")
    known = licence if re.fullmatch(patterns.LICENCE, licence) else None
    return HubListing(commit=descriptor.digest, licence=known, files=files)


def _file(place: RegistrySource, layer: dict[str, Any]) -> HubFile:
    annotations = layer.get("annotations") or {}
    path, digest, size = annotations.get(TITLE), layer["digest"], layer["size"]
    if not isinstance(path, str):
        raise _no_model(place, f"a layer of it has no `{TITLE}`, so it is no file")
    path = path.removeprefix("./")
    if flaw := path_flaw(path):
        raise _no_model(place, f"it lists a file that {flaw}: {shown(path)}")
    if annotations.get(_UNPACK) == "true":
        raise _no_model(place, f"{path} is a packed folder")
    if not re.fullmatch(DIGEST_PATTERN, str(digest)) or not isinstance(size, int) or size < 0:
        raise _no_model(place, f"{path} has no sha256 or no size")
    return HubFile(path=path, size=size, sha256=str(digest).removeprefix("sha256:"), git_id=None)


@contextmanager
def _missing(place: RegistrySource, path: str | None = None) -> Iterator[None]:
    """Say of a model, or of a file of it, that its registry does not have it."""
    try:
        yield
    except ImageMissingError as error:
        reference = place.reference
        what = f"the file {path} of {place.source}" if path else f"the model {place.source}"
        taken = "" if place.source.endswith(str(reference)) else ", where a mirror rule or its lock looks for it"
        raise ModelError(
            f"the registry {reference.host} does not have {what}: {error.message}",
            where=f"{reference}{taken}",
            hint=f"correct `source` in the recipe, or {_PUSH.replace('HOST/NAME:TAG', str(reference))}",
        ) from error


def _no_model(place: RegistrySource, flaw: str) -> ModelError:
    return ModelError(f"this is no model in a registry: {flaw}", where=place.source, hint=_PUSH)

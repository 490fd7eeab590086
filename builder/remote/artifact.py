"""Models in registries: OCI artifacts as ORAS pushes them, with a layer for each file, named by its title.

The title is `org.opencontainers.image.title` of the OCI image specification, "Annotations".
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import IntegrityError, ModelError
from builder.host.json_documents import decode_json
from builder.model import patterns
from builder.model.model_files import HubFile, HubListing, path_flaw, printable_path
from builder.remote.registry.reference import DIGEST_PATTERN
from builder.remote.registry.registry_client import INDEXES, RegistryClient
from builder.remote.registry.registry_failures import ImageMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.remote.download import PartialFile
    from builder.remote.model_sources import RegistrySource

TITLE = "org.opencontainers.image.title"
_LICENCES = "org.opencontainers.image.licenses"
# ORAS marks the archive of a folder with this annotation.
_UNPACK = "io.deis.oras.content.unpack"
_PUSH = "push the files of the model's folder one by one: `cd FOLDER && oras push HOST/NAME:TAG $(find . -type f)`"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryFetcher:
    """A file of a model in a registry."""

    source: RegistrySource
    file: HubFile
    client: RegistryClient

    @property
    def uri(self) -> str:
        """The model as recipes write it."""
        return self.source.uri

    def fetch(self, content: PartialFile) -> None:
        """Append the missing bytes.

        Raises:
            ModelError: the registry no longer has the file.
            RegistryError: the registry refuses or cannot be reached.
        """
        with _missing(self.source, self.file.path):
            self.client.fetch_blob(self.source.reference.repository, f"sha256:{self.file.sha256}", content)

    def mismatch(self, content: PartialFile) -> IntegrityError:
        """Return the error for other bytes."""
        return IntegrityError(
            f"{self.file.path} of {self.uri} does not have its hash or size: {content.flaw()}",
            where=str(self.source.reference),
            hint="the registry, or a cache in front of it, is damaged: repair it, then run this again",
        )


def list_files(source: RegistrySource, client: RegistryClient) -> HubListing:
    """Return the files of a model, the digest of its manifest, and its licence.

    Raises:
        ModelError: the registry lacks it, or it is not an artifact of files.
        RegistryError: the registry does not answer, or refuses.
    """
    with _missing(source):
        content, descriptor = client.get_manifest(source.reference.repository, source.reference.tag_or_digest)
    if descriptor.media_type in INDEXES:
        raise _no_model(source, "it is an index of several images")
    try:
        document = decode_json(content)
        files = tuple(_file(source, layer) for layer in document["layers"])
        licence = str((document.get("annotations") or {}).get(_LICENCES) or "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_model(source, "its manifest cannot be read") from error
    paths = [file.path for file in files]
    duplicate = next((path for path in paths if paths.count(path) > 1), None)
    if duplicate:
        raise _no_model(source, f"two of its files are called {duplicate}")
    if not re.fullmatch(patterns.LICENCE, licence):
        licence = ""
    return HubListing(commit=descriptor.digest, licence=licence or None, files=files)


def _file(source: RegistrySource, layer: dict[str, Any]) -> HubFile:
    annotations = layer.get("annotations") or {}
    path, digest, size = annotations.get(TITLE), layer["digest"], layer["size"]
    if not isinstance(path, str):
        raise _no_model(source, f"one of its layers has no `{TITLE}`, so it is not a file")
    path = path.removeprefix("./")
    if flaw := path_flaw(path):
        raise _no_model(source, f"it lists a file that {flaw}: {printable_path(path)}")
    if annotations.get(_UNPACK) == "true":
        raise _no_model(source, f"{path} is a packed folder")
    if not re.fullmatch(DIGEST_PATTERN, str(digest)) or not isinstance(size, int) or size < 0:
        raise _no_model(source, f"{path} has no sha256 or no size")
    return HubFile(path=path, size=size, sha256=str(digest).removeprefix("sha256:"), git_id=None)


@contextmanager
def _missing(source: RegistrySource, path: str | None = None) -> Iterator[None]:
    """Turn a missing manifest or blob into an error about the model or its file."""
    try:
        yield
    except ImageMissingError as error:
        reference = source.reference
        noun = f"the file {path} of {source.uri}" if path else f"the model {source.uri}"
        origin = "" if source.uri.endswith(str(reference)) else ", from a mirror rule or the lock"
        raise ModelError(
            f"the registry {reference.host} does not have {noun}: {error.message}",
            where=f"{reference}{origin}",
            hint=f"correct `source` in the recipe, or {_PUSH.replace('HOST/NAME:TAG', str(reference))}",
        ) from error


def _no_model(source: RegistrySource, flaw: str) -> ModelError:
    return ModelError(f"not a model in a registry: {flaw}", where=source.uri, hint=_PUSH)

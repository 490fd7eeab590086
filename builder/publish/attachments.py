"""Writes evidence to a registry and reads it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from builder.errors import RegistryError
from builder.model.publications import Attached
from builder.publish.evidence import Artifact, Evidence
from builder.remote.registry.cosign_images import CosignTag, cosign_layers, put_cosign_layers
from builder.remote.registry.manifests import parts_of, put_blobs
from builder.remote.registry.referrers import Referrer, add_referrers, referrers
from builder.remote.registry.registry_client import LONGEST_DOCUMENT, RemoteBlob
from builder.remote.registry.registry_failures import ImageMissingError, TagImmutableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.remote.registry.registry_client import RegistryClient

_HINT = "set `attach = false` under [publish] in the recipe if this registry cannot hold artifacts"


def attach(client: RegistryClient, repository: str, digest: str, evidence: Evidence) -> tuple[Attached, ...]:
    """Add the missing evidence to an image; return all artifacts that refer to the image.

    Raises:
        RegistryError: the registry refuses the evidence.
    """
    try:
        unlisted = [item.referrer for item in evidence.artifacts if not _put_artifact(client, repository, item)]
        _list(client, repository, digest, unlisted)
        for tag in get_args(CosignTag):
            layers = [item for item in evidence.cosign if item.tag == tag]
            if layers:
                put_cosign_layers(client, repository, digest, tag, layers)
        # Another run may have overwritten the list in between, without these entries.
        _list(client, repository, digest, unlisted)
    except TagImmutableError as error:
        error.hint = f"exempt tags that begin with `sha256-` from the registry's rule of immutable tags; or {_HINT}"
        raise
    except RegistryError as error:
        error.hint = f"{error.hint}; {_HINT}" if error.hint else _HINT
        raise
    return tuple(Attached(name=item.name, digest=item.referrer.descriptor.digest) for item in evidence.artifacts)


def is_evidence(tag: str) -> bool:
    """Return whether a tag holds evidence of a digest."""
    return tag.startswith("sha256-")


def evidence_of(client: RegistryClient, repository: str, digest: str) -> Evidence:
    """Return all evidence attached to an image.

    Raises:
        RegistryError: the registry does not answer, or an entry cannot be read.
    """
    references = referrers(client, repository, digest)
    artifacts = [item for item in (_artifact(client, repository, referrer) for referrer in references) if item]
    layers = [layer for tag in get_args(CosignTag) for layer in cosign_layers(client, repository, digest, tag)]
    return Evidence(artifacts=tuple(artifacts), cosign=tuple(layers))


def contents(client: RegistryClient, repository: str, artifact: Artifact) -> bytes:
    """Return the content of an artifact in a registry: its first layer."""
    layers = parts_of(artifact.manifest)[1:]
    if not layers or layers[0]["size"] > LONGEST_DOCUMENT:
        return b""
    return client.read_blob(repository, layers[0]["digest"])


def _put_artifact(client: RegistryClient, repository: str, artifact: Artifact) -> bool:
    """Put an artifact if it is missing; return whether the registry lists it as a referrer itself."""
    descriptor = artifact.referrer.descriptor
    if client.head_manifest(repository, descriptor.digest) is not None:
        return False
    put_blobs(client, repository, artifact.blobs)
    return client.put_manifest(repository, descriptor.digest, artifact.manifest, descriptor.media_type)


def _list(client: RegistryClient, repository: str, digest: str, unlisted: Sequence[Referrer]) -> None:
    if unlisted and client.referrers(repository, digest) is None:
        add_referrers(client, repository, digest, unlisted)


def _manifest(client: RegistryClient, repository: str, reference: str) -> bytes:
    """Return a manifest, or no bytes if it is missing."""
    try:
        return client.get_manifest(repository, reference)[0]
    except ImageMissingError:
        return b""


def _artifact(client: RegistryClient, repository: str, referrer: Referrer) -> Artifact | None:
    """Return a listed artifact, or None if it is gone or not an artifact: anybody may add entries to the list."""
    content = _manifest(client, repository, referrer.descriptor.digest)
    blobs = {blob["digest"]: RemoteBlob(client, repository, blob["digest"], blob["size"]) for blob in parts_of(content)}
    name = referrer.artifact_type or "artifact"
    return Artifact(name=name, referrer=referrer, manifest=content, blobs=tuple(blobs.values())) if blobs else None

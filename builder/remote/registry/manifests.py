"""Parts of OCI manifests: descriptors, the empty configuration of artifacts, and artifacts under a tag."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.host.json_documents import decode_json
from builder.host.records import as_bytes
from builder.model.images import Descriptor
from builder.remote.registry.reference import DIGEST_PATTERN
from builder.remote.registry.registry_client import OCI_MANIFEST
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.remote.registry.registry_client import RegistryClient
    from builder.remote.registry.upload import BlobSource

EMPTY = BytesBlob(b"{}")
# The configuration of an artifact (OCI image specification 1.1, "Artifact Usage").
EMPTY_CONFIG = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": EMPTY.digest,
    "size": EMPTY.size,
}


def parts_of(manifest: bytes) -> list[dict[str, Any]]:
    """Return the configuration and the layers of a manifest; [] if a digest or size is malformed."""
    try:
        document = decode_json(manifest)
        parts = [document["config"], *document["layers"]]
        sound = all(re.fullmatch(DIGEST_PATTERN, blob["digest"]) and type(blob["size"]) is int for blob in parts)
    except (ValueError, KeyError, TypeError):
        return []
    return parts if sound else []


def put_blobs(client: RegistryClient, repository: str, blobs: tuple[BlobSource, ...]) -> None:
    """Upload the blobs that a repository lacks.

    Raises:
        RegistryError: the registry refuses.
    """
    for blob in blobs:
        if not client.has_blob(repository, blob.digest, right="push", size=blob.size):
            client.send_blob(repository, blob)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggedArtifact:
    """An artifact with one file: its type, the file's media type, and annotations."""

    artifact_type: str
    media_type: str
    annotations: Mapping[str, str]

    def put(self, client: RegistryClient, repository: str, tag: str, blob: BlobSource) -> Descriptor:
        """Put a file as an artifact under a tag, and return the manifest's descriptor.

        Raises:
            RegistryError: the registry refuses.
        """
        put_blobs(client, repository, (EMPTY, blob))
        manifest = as_bytes(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": self.artifact_type,
                "config": EMPTY_CONFIG,
                "layers": [{"mediaType": self.media_type, "digest": blob.digest, "size": blob.size}],
                "annotations": dict(self.annotations),
            }
        )
        client.put_manifest(repository, tag, manifest, OCI_MANIFEST)
        itself = BytesBlob(manifest)
        return Descriptor(media_type=OCI_MANIFEST, digest=itself.digest, size=itself.size)

    def layer(self, manifest: bytes, largest: int) -> dict[str, Any] | None:
        """Return the descriptor of the file in a manifest; None if the manifest is not of such an artifact.

        The manifest must have this artifact's type and annotations; it may have others besides.
        """
        try:
            document = decode_json(manifest)
            (layer,) = document["layers"]
            annotations, size = document["annotations"], layer["size"]
            fits = document["artifactType"] == self.artifact_type and type(size) is int and 0 < size <= largest
            stated = all(annotations[name] == value for name, value in self.annotations.items())
            return dict(layer) if fits and stated and re.fullmatch(DIGEST_PATTERN, layer["digest"]) else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

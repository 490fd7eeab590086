"""cosign's own images beside a manifest: its signatures and attestations (cosign, "simple signing")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from builder.errors import RegistryError
from builder.host.json_documents import decode_json
from builder.host.records import as_bytes
from builder.host.signing import is_signed
from builder.remote.registry.manifests import parts_of, put_blobs
from builder.remote.registry.referrers import tag_of
from builder.remote.registry.registry_client import OCI_MANIFEST
from builder.remote.registry.registry_failures import ImageMissingError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.host.signing import Signer
    from builder.remote.registry.registry_client import RegistryClient

CosignTag = Literal["sig", "att"]
SIGNATURE = "dev.cosignproject.cosign/signature"
_SIGNED_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
# Another client may write the same image.
_TRIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CosignLayer:
    """A signature or an attestation in cosign's own image: its tag, its descriptor as a layer, its bytes."""

    tag: CosignTag
    layer: dict[str, Any]
    content: bytes


def cosign_tag(digest: str, tag: CosignTag) -> str:
    """Return the tag of cosign's image with signatures (`sig`) or attestations (`att`)."""
    return f"{tag_of(digest)}.{tag}"


def signed_payload(digest: str, name: str) -> bytes:
    """Return the signed bytes of a manifest's signature (cosign, "simple signing")."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return as_bytes({"critical": critical, "optional": None})


def signed_digest(payload: bytes) -> str | None:
    """Return the digest of the manifest that a payload is about; None for other bytes."""
    try:
        return str(decode_json(payload)["critical"]["image"]["docker-manifest-digest"])
    except (ValueError, KeyError, TypeError):
        return None


def signature_layer(digest: str, name: str, signer: Signer) -> CosignLayer:
    """Return the signature of a manifest; `name` is the same for all registries.

    Raises:
        UsageError, RegistryError: it cannot be signed.
    """
    payload = signed_payload(digest, name)
    layer = annotated_layer(_SIGNED_TYPE, payload, {SIGNATURE: signer.sign(payload)})
    return CosignLayer(tag="sig", layer=layer, content=payload)


def signature_of(layer: dict[str, Any]) -> str:
    """Return the signature of a layer of cosign's image, in base64; empty for an attestation."""
    return str((layer.get("annotations") or {}).get(SIGNATURE) or "")


def annotated_layer(media_type: str, content: bytes, annotations: dict[str, str]) -> dict[str, Any]:
    """Return the descriptor of content as a layer with annotations."""
    blob = BytesBlob(content)
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size, "annotations": annotations}


def is_trusted(layers: Iterable[CosignLayer], digest: str, keys: Iterable[Path]) -> bool:
    """Return whether one of the layers is a signature of a manifest by one of the public keys.

    Raises:
        UsageError: cosign is missing.
    """
    trusted = tuple(keys)
    about = [layer for layer in layers if layer.tag == "sig" and signed_digest(layer.content) == digest]
    return any(is_signed(layer.content, [signature_of(layer.layer)], trusted) for layer in about)


def cosign_image(layers: Sequence[dict[str, Any]]) -> tuple[bytes, BytesBlob]:
    """Return the manifest and the configuration of cosign's image with these layers."""
    # cosign writes the same configuration: it holds only the layers' digests.
    config = BytesBlob(
        as_bytes(
            {
                "architecture": "",
                "config": {},
                "created": "0001-01-01T00:00:00Z",
                "history": [{"created": "0001-01-01T00:00:00Z"} for _ in layers],
                "os": "",
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            }
        )
    )
    described = {"mediaType": _CONFIG_TYPE, "digest": config.digest, "size": config.size}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": list(layers)}
    return as_bytes(manifest), config


def cosign_layers(client: RegistryClient, repository: str, digest: str, tag: CosignTag) -> tuple[CosignLayer, ...]:
    """Return the signatures or attestations of a manifest.

    Raises:
        RegistryError: the registry does not answer, or an entry cannot be read.
    """
    rows = _rows(client, repository, cosign_tag(digest, tag))
    return tuple(
        CosignLayer(tag=tag, layer=row, content=client.read_blob(repository, str(row["digest"]))) for row in rows
    )


def put_cosign_layers(
    client: RegistryClient, repository: str, digest: str, tag: CosignTag, added: Sequence[CosignLayer]
) -> None:
    """Add layers to cosign's image and keep those of others; read it back, since others may write at the same time.

    Raises:
        RegistryError: the registry refuses, or another client keeps overwriting the image.
    """
    name = cosign_tag(digest, tag)
    for _ in range(_TRIES):
        present = _rows(client, repository, name)
        missing = [item for item in added if item.layer not in present]
        if not missing:
            return
        manifest, config = cosign_image([*present, *(item.layer for item in missing)])
        put_blobs(client, repository, (config, *(BytesBlob(item.content) for item in missing)))
        client.put_manifest(repository, name, manifest, OCI_MANIFEST)
    if any(item.layer not in _rows(client, repository, name) for item in added):
        raise RegistryError(
            "another client keeps overwriting the image's signatures",
            where=f"{client.host}/{repository}:{name}",
            hint="run it again when no other client signs this image",
        )


def _rows(client: RegistryClient, repository: str, tag: str) -> list[dict[str, Any]]:
    try:
        return parts_of(client.get_manifest(repository, tag)[0])[1:]
    except ImageMissingError:
        return []

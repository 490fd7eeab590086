"""What refers to an image (OCI distribution specification 1.1, "Listing Referrers"): SBOMs, statements, signatures.

Registries without that list get it as an index under the tag `sha256-<hex>`, the specification's fallback.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import RegistryError
from builder.model.images import Descriptor
from builder.remote.registry.errors import ImageMissingError
from builder.remote.registry.registry_client import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.remote.registry.registry_client import RegistryClient

# Another run may write the same list: it is read back, and written again if an entry got lost.
_TRIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Referrer:
    """One thing that refers to an image: its manifest, what kind of thing it is, and its annotations."""

    descriptor: Descriptor
    artifact_type: str
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def entry(self) -> dict[str, Any]:
        """The referrer as an index lists it."""
        return {
            "mediaType": self.descriptor.media_type,
            "digest": self.descriptor.digest,
            "size": self.descriptor.size,
            "artifactType": self.artifact_type,
            "annotations": dict(self.annotations),
        }


def tag_of(digest: str) -> str:
    """Return the fallback tag of a digest."""
    return digest.replace(":", "-", 1)


def referrers(client: RegistryClient, repository: str, digest: str) -> tuple[Referrer, ...]:
    """Return what refers to a digest, in the list's order.

    Raises:
        RegistryError: the registry does not answer, or its list cannot be understood.
    """
    entries = client.referrers(repository, digest)
    if entries is None:
        entries = _fallback(client, repository, digest)
    try:
        return tuple(_referrer(entry) for entry in entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RegistryError(
            "the list of what refers to the image cannot be understood",
            where=f"{client.host}/{repository}@{digest}",
            hint=f"look at the index under the tag {tag_of(digest)}",
        ) from error


def add_referrers(client: RegistryClient, repository: str, subject: str, added: Sequence[Referrer]) -> None:
    """Put manifests on the fallback list of their subject, beside whatever is there; read back.

    Raises:
        RegistryError: the registry refuses, or entries keep getting lost to other writers.
    """
    for last in (*[False] * _TRIES, True):
        entries = _fallback(client, repository, subject)
        there = {entry.get("digest") for entry in entries}
        missing = [each.entry for each in added if each.descriptor.digest not in there]
        if not missing:
            return
        if not last:
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, *missing]}
            client.put_manifest(repository, tag_of(subject), json.dumps(index).encode(), OCI_INDEX)
    raise RegistryError(
        "what was attached does not stay on the image's list",
        where=f"{client.host}/{repository}:{tag_of(subject)}",
        hint="does somebody else attach to the same image? Run it again when they have finished",
    )


def _fallback(client: RegistryClient, repository: str, digest: str) -> tuple[dict[str, Any], ...]:
    if client.head_manifest(repository, tag_of(digest)) is None:
        return ()
    try:
        content, _ = client.get_manifest(repository, tag_of(digest))
        return tuple(json.loads(content).get("manifests") or ())
    except ImageMissingError:
        return ()


def _referrer(entry: dict[str, Any]) -> Referrer:
    return Referrer(
        descriptor=Descriptor(media_type=str(entry["mediaType"]), digest=str(entry["digest"]), size=int(entry["size"])),
        artifact_type=str(entry.get("artifactType") or ""),
        annotations=tuple((str(k), str(v)) for k, v in (entry.get("annotations") or {}).items()),
    )

"""Referrers of an image (OCI distribution specification 1.1, "Listing Referrers"): SBOMs, statements, signatures.

In registries without that API the list is an index under the tag `sha256-<hex>`, the specification's fallback.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import RegistryError
from builder.host.json_documents import decode_json
from builder.model.images import Descriptor
from builder.remote.registry.registry_client import OCI_INDEX
from builder.remote.registry.registry_failures import ImageMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.remote.registry.registry_client import RegistryClient

# Another run may write the same list: it is read back, and written again if an entry is missing.
_TRIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Referrer:
    """A referrer of an image: its manifest, artifact type and annotations."""

    descriptor: Descriptor
    artifact_type: str
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def entry(self) -> dict[str, Any]:
        """The referrer's entry in an index."""
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
    """Return the referrers of a digest, in the list's order.

    Raises:
        RegistryError: the registry does not answer, or its list cannot be read.
    """
    entries = client.referrers(repository, digest)
    if entries is None:
        entries = _fallback(client, repository, digest)
    try:
        return tuple(_referrer(entry) for entry in entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(client, repository, digest) from error


def _unreadable(client: RegistryClient, repository: str, digest: str) -> RegistryError:
    return RegistryError(
        "the image's list of referrers cannot be read",
        where=f"{client.host}/{repository}@{digest}",
        hint=f"check the index under the tag {tag_of(digest)}",
    )


def add_referrers(client: RegistryClient, repository: str, subject: str, added: Sequence[Referrer]) -> None:
    """Add manifests to the fallback list of their subject, and read it back.

    Raises:
        RegistryError: the registry refuses, or other writers keep removing the entries.
    """
    for last in (*[False] * _TRIES, True):
        entries = _fallback(client, repository, subject)
        digests = {entry.get("digest") for entry in entries}
        missing = [referrer.entry for referrer in added if referrer.descriptor.digest not in digests]
        if not missing:
            return
        if not last:
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, *missing]}
            client.put_manifest(repository, tag_of(subject), json.dumps(index).encode(), OCI_INDEX)
    raise RegistryError(
        "attached manifests disappear from the image's list of referrers",
        where=f"{client.host}/{repository}:{tag_of(subject)}",
        hint="another writer may be attaching to the same image: run it again when it has finished",
    )


def _fallback(client: RegistryClient, repository: str, digest: str) -> tuple[dict[str, Any], ...]:
    try:
        content, _ = client.get_manifest(repository, tag_of(digest))
        return tuple(dict(entry) for entry in decode_json(content).get("manifests") or ())
    except ImageMissingError:
        return ()
    except (TypeError, ValueError, AttributeError) as error:
        raise _unreadable(client, repository, digest) from error


def _referrer(entry: dict[str, Any]) -> Referrer:
    return Referrer(
        descriptor=Descriptor(media_type=str(entry["mediaType"]), digest=str(entry["digest"]), size=int(entry["size"])),
        artifact_type=str(entry.get("artifactType") or ""),
        annotations=tuple((str(k), str(v)) for k, v in (entry.get("annotations") or {}).items()),
    )

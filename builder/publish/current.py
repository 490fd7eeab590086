"""Tells whether a publication still stands: registries are emptied, and tags are moved by others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.registry.client import connect
from builder.registry.reference import Reference
from builder.registry.referrers import referrers

if TYPE_CHECKING:
    from builder.config import Config
    from builder.publish.model import Publication


def still_published(publication: Publication, config: Config) -> bool:
    """Return whether every tag of a publication is on its digest in every registry, and all evidence beside it.

    Raises:
        RegistryError: a registry does not answer.
    """
    names = [Reference.parse(each.repository) for each in publication.registries]
    own = {name.host for name in names}
    for name, each in zip(names, publication.registries, strict=True):
        client = connect(name.host, config, own=own)
        for tag in each.tags:
            found = client.head_manifest(name.repository, tag.name)
            if found is None or found.digest != publication.digest:
                return False
        if each.attached:
            listed = {one.descriptor.digest for one in referrers(client, name.repository, publication.digest)}
            if not listed.issuperset(one.digest for one in each.attached):
                return False
    return not publication.failures

"""The image that the receiver of a bundle has already: in a registry, in an earlier bundle, or built here before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import JbuildError, UsageError
from builder.image.oci.layout import read_image
from builder.pipeline.cell import CellRecords
from builder.pipeline.history import published, runs
from builder.publish.bundle.bundle_reading import read_bundle
from builder.publish.image_source import from_registry
from builder.remote.registry.base_lookup import connect_in
from builder.remote.registry.manifests import parts_of
from builder.remote.registry.reference import DIGEST_PATTERN, Reference

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Job

_WAYS = "name an image in a registry, the folder of an earlier bundle, or a digest of this cell (`jbuild show RECIPE`)"


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierImage:
    """An image that the receiver has: its digest, and the digests of its configuration and layers."""

    digest: str
    blobs: frozenset[str]


def earlier_image(name: str, job: Job, session: Session) -> EarlierImage:
    """Return the image with a digest, in a bundle's folder, or in a registry.

    Raises:
        UsageError: the image does not exist.
        RegistryError: the registry does not have it, or does not answer.
    """
    if re.fullmatch(DIGEST_PATTERN, name):
        return _by_digest(name, job, session)
    folder = Path(name)
    if folder.is_dir():
        bundle = read_bundle(folder)
        if bundle is None:
            raise UsageError("--since: the folder is not a bundle", where=name, hint=_WAYS)
        return _of_image(bundle.image)
    try:
        reference = Reference.parse(name)
    except JbuildError as error:
        raise UsageError(f"--since: neither an image nor a bundle: {error.message}", where=name, hint=_WAYS) from error
    return _in_registry(reference, session)


def _by_digest(digest: str, job: Job, session: Session) -> EarlierImage:
    """Return an image of the cache, or one that this cell has published."""
    platform = f"linux/{job.platform.architecture}"
    try:
        return _of_image(read_image(session.workspace.images, digest, platform))
    except JbuildError:
        folder = session.workspace.cell(job.recipe.name, job.cell.id)
    last = published(folder)
    if last and last.image.digest == digest:
        return _of_image(last.image)
    for repository in _repositories(digest, job, session):
        return _in_registry(Reference.parse(repository).at(digest), session)
    raise UsageError("--since: no image of this cell has this digest", where=digest, hint=_WAYS)


def _repositories(digest: str, job: Job, session: Session) -> list[str]:
    """Return the repositories that a digest of a cell was pushed to."""
    folder = session.workspace.cell(job.recipe.name, job.cell.id)
    publication = CellRecords(folder).publication()
    last = [r.repository for r in publication.registries] if publication and publication.digest == digest else []
    tags = [tag for run in reversed(runs(folder)) if run.digest == digest for tag in run.tags]
    return [*last, *tags]


def _in_registry(reference: Reference, session: Session) -> EarlierImage:
    source = from_registry(connect_in(session, reference), reference)
    blobs = frozenset(str(part["digest"]) for part in parts_of(source.content))
    return EarlierImage(digest=source.digest, blobs=blobs)


def _of_image(image: Image) -> EarlierImage:
    return EarlierImage(
        digest=image.digest, blobs=frozenset({image.config.digest, *(layer.digest for layer in image.layers)})
    )

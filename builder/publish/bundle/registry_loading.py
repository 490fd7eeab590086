"""Pushes a bundle's image and evidence to a registry, with the tags that its verdict earns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import RegistryError
from builder.host.concurrency import TaskGroup
from builder.publish.bundle.bundle_job import job_of_bundle
from builder.publish.bundle.lacking_blobs import lacking_words
from builder.publish.bundle.layout_evidence import artifact_content, evidence_in_bundle, image_in_bundle
from builder.publish.promotion import PromotionCandidate, promote
from builder.publish.push import base_of
from builder.publish.trust import attestations
from builder.remote.http import announced
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Descriptor
    from builder.model.publications import Publication
    from builder.publish.bundle.opened import OpenBundle
    from builder.publish.image_source import ImageSource
    from builder.publish.promotion import PromoteOptions

_WORKERS = 4


def push_bundle(bundle: OpenBundle, options: PromoteOptions, session: Session) -> Publication:
    """Push a bundle's image by its digest, its evidence, and the recipe's tags that the verdict earns.

    Raises:
        PublicationError: a registry failed.
        RegistryError: a registry lacks blobs that the bundle expects.
        IntegrityError: the bundle's evidence cannot be read.
    """
    candidate = _candidate(bundle, options.keys)
    for target in options.targets:
        _require_missing(bundle, candidate.source, target, session)
    return promote(candidate, options, session)


def _candidate(bundle: OpenBundle, keys: tuple[Path, ...]) -> PromotionCandidate:
    spec, source, evidence = job_of_bundle(bundle).spec.publish, image_in_bundle(bundle), evidence_in_bundle(bundle)
    stated = [
        attestation
        for attestation in attestations(source.digest, evidence, keys, artifact_content)
        if attestation.statement.level
    ]
    return PromotionCandidate(
        source=source,
        evidence=evidence,
        repository=bundle.bundle.repository,
        levels=tuple(attestation.statement.level or "" for attestation in stated if attestation.signed),
        unsigned=tuple(attestation.statement.level or "" for attestation in stated if not attestation.signed),
        rules=spec.tags,
        on_failure=spec.on_failure,
    )


def _require_missing(bundle: OpenBundle, source: ImageSource, target: str, session: Session) -> None:
    """Make sure that a registry has the blobs that a bundle expects there, or mounts them from the base image.

    Raises:
        RegistryError: it lacks some of them, or does not answer.
    """
    missing = bundle.bundle.missing
    reference = Reference.parse(f"{target}/{bundle.bundle.repository}")
    retry = announced(session.console.say, reference.host)
    client = connect(reference.host, session.config, publish=True, retry=retry)
    base = base_of(source, session.config)
    others = [base.repository] if base and base.host == reference.host else []

    def is_there(blob: Descriptor) -> bool:
        if client.has_blob(reference.repository, blob.digest, right="push", size=blob.size):
            return True
        return any(client.mount_blob(reference.repository, blob.digest, other) for other in others)

    with TaskGroup(_WORKERS) as group:
        present = group.map(is_there, missing)
    lacking = [blob for blob, there in zip(missing, present, strict=True) if not there]
    if lacking:
        raise RegistryError(
            f"the registry lacks {lacking_words(lacking, bundle.bundle)}",
            where=reference.name,
            hint="push that image there first, or make the bundle without --since",
        )

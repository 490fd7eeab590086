"""A cell's latest image outside the pipeline: where its blobs are, and the evidence that its records give."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.host.signing import signer
from builder.image.layers.layer_blobs import LayerBlobs
from builder.image.oci.layout import is_whole
from builder.image.oci.warm_image import WARM_LABEL
from builder.lock import lockfile
from builder.model.locks import Locked
from builder.pipeline.cell import CellRecords, start
from builder.publish.evidence import Evidence, evidence
from builder.publish.image_source import ImageSource, from_layout, from_registry
from builder.remote.registry.base_lookup import connect_in
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.images import Image, Plan
    from builder.model.locks import Job, Lock
    from builder.model.publications import Publication
    from builder.model.verdicts import Verdict


def source_of(job: Job, image: Image, session: Session) -> ImageSource:
    """Return a cell's latest image, or its warm image, in the cache's layout, or else in the registry of its last push.

    Raises:
        LockError: the lock is damaged.
        IntegrityError: the layout does not hold the image, and it was not pushed.
        RegistryError: the registry does not have it, or does not answer.
    """
    publication = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id)).publication()
    pushed = publication is not None and publication.digest == image.digest
    origins = published_in(publication)
    built = _built_from(job, image, session)
    of_cell = LayerBlobs(job=job, lock=built[0], plan=built[1], session=session) if built else None
    in_cache = not of_cell.missing(image) if of_cell else is_whole(session.workspace.images, image)
    if pushed and origins and not in_cache:
        reference = origins[0].at(image.digest)
        return from_registry(connect_in(session, reference), reference)
    return from_layout(image, session.workspace.images, of_cell, origins)


def published_in(publication: Publication | None) -> tuple[Reference, ...]:
    """Return the repositories of a cell's last push; most layers of its next image are there already."""
    return tuple(Reference.parse(registry.repository) for registry in publication.registries) if publication else ()


def _built_from(job: Job, image: Image, session: Session) -> tuple[Lock, Plan] | None:
    """Return the lock and the plan of an image; None if they have changed since."""
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    plan = records.plan()
    lock = lockfile.read(session.workspace.lock(job.recipe.name, job.cell.id), recipe=job.recipe.name, cell=job.cell.id)
    if plan is None or lock is None or dict(image.labels).get("io.jbuild.lock") != lockfile.content(lock):
        return None
    return records.with_built(lock), plan


def cell_evidence(job: Job, image: Image, verdict: Verdict | None, session: Session) -> Evidence:
    """Return the evidence from a cell's records, with the verdict that the image passed; signed if a key is configured.

    `image` is the cell's latest, or its warm image.

    There is none if the records no longer match the image.

    Raises:
        LockError: the lock is damaged.
        UsageError, RegistryError: the evidence cannot be signed.
        JbuildError: a layer of the image cannot be read for its bill of materials.
    """
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    built = _built_from(job, image, session)
    if built is None:
        session.console.warn(f"{job.cell.id}: attaching no evidence, the lock has changed since the build")
        return Evidence()
    lock, plan = built
    optional = [record for record in (records.audit(), verdict) if record]
    if WARM_LABEL in dict(image.labels):
        plan = replace(plan, layers=(*plan.layers, WARM_LABEL))
    run = start(job, session).with_records(Locked(lock=lock), plan, image, *optional)
    return evidence(run, signer(session.config, session.workspace))

"""Collects the content of a bundle: the record, and the files in the order of the archive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder import __version__
from builder.errors import UsageError
from builder.host import records
from builder.host.json_documents import decode_json
from builder.model.bundles import BUNDLE_FORMAT, RECORD_ANNOTATION, SUMS_FILE, Bundle
from builder.model.images import proven_name
from builder.pipeline.cell import CellRecords
from builder.publish.built_image import cell_evidence, source_of
from builder.publish.bundle.bundle_texts import BundleFacts, evidence_members, text_members
from builder.publish.bundle.carried_jbuild import jbuild_members
from builder.publish.bundle.carried_project import project_members
from builder.publish.bundle.earlier_image import earlier_image
from builder.publish.bundle.image_layout import evidence_entries, layout_members
from builder.publish.bundle.members import BundleMember, checksums, text_member
from builder.smoke.launch import server_port

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Job
    from builder.model.verdicts import Verdict
    from builder.publish.evidence import Evidence
    from builder.publish.image_source import ImageSource


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleOptions:
    """Options of the command line.

    `since` names an image that the receiver has, `part_bytes` splits the bundle.
    """

    output: Path
    since: str | None = None
    part_bytes: int | None = None
    with_jbuild: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleContents:
    """A bundle's record, its files, and the facts of its texts."""

    bundle: Bundle
    members: tuple[BundleMember, ...]
    facts: BundleFacts


def bundle_contents(job: Job, session: Session, options: BundleOptions) -> BundleContents:
    """Return the content of the bundle of a cell's latest image.

    Raises:
        UsageError: the cell has not been built, or `since` is unknown.
        IntegrityError: a blob is missing.
        RegistryError: a registry does not answer.
    """
    cell = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    image, verdict = cell.image(), cell.proven()
    if image is None:
        hint = f"run `jbuild build {job.recipe.name} --cell {job.cell.id}`"
        raise UsageError("this cell has not been built on this machine", where=job.name, hint=hint)
    since = earlier_image(options.since, job, session) if options.since else None
    source = source_of(job, image, session)
    with session.console.task("collecting the evidence", unit="documents"):
        evidence = cell_evidence(job, image, verdict, session)
    missing = tuple({layer.digest: layer for layer in image.layers if since and layer.digest in since.blobs}.values())
    source.provide({blob.digest for blob in source.blobs} - {layer.digest for layer in missing})
    bundle = Bundle(
        format=BUNDLE_FORMAT,
        jbuild=__version__,
        created=verdict.when if verdict else _created(source, image),
        recipe=job.recipe.name,
        cell=job.cell.id,
        repository=job.spec.publish.repository,
        image=image,
        files=(),
        since=since.digest if since else None,
        missing=missing,
    )
    facts = BundleFacts(
        name=proven_name(job.recipe.name, job.cell.id),
        recipe=job.recipe.name,
        cell=job.cell.id,
        digest=image.digest,
        platform=image.platform,
        repository=bundle.repository,
        size=image.size,
        jbuild=bundle.jbuild,
        created=bundle.created,
        port=server_port(job.spec, (), ()),
        gpu=job.platform.has_gpu,
        signed=evidence.signed,
        with_jbuild=options.with_jbuild,
        verdict=last_verdict(cell),
        since=bundle.since,
        missing=len(missing),
        evidence=tuple(entry["digest"] for entry in evidence_entries(image, evidence)),
    )
    members = _members(job, session, bundle, source, evidence, facts)
    return BundleContents(
        bundle=replace(bundle, files=tuple(member.entry for member in members)), members=members, facts=facts
    )


def last_verdict(cell: CellRecords) -> Verdict | None:
    """Return the last verdict on the latest image of a cell, passed or not."""
    image, verdict = cell.image(), cell.verdict()
    return verdict if image and verdict and verdict.digest == image.digest else None


def _members(
    job: Job, session: Session, bundle: Bundle, source: ImageSource, evidence: Evidence, facts: BundleFacts
) -> tuple[BundleMember, ...]:
    """Return all files besides `bundle.json`, small ones first."""
    covered = {RECORD_ANNOTATION: records.fingerprint(bundle)}
    missing = {descriptor.digest for descriptor in bundle.missing}
    members = [
        *text_members(facts, split=False),
        *(jbuild_members(job.platform, session) if facts.with_jbuild else ()),
        *project_members(job, session, proven=facts.verdict is not None and facts.verdict.passed),
        *evidence_members(evidence),
        *layout_members(bundle.image, facts.name, source, evidence, missing, covered),
    ]
    return (text_member(SUMS_FILE, checksums(member.entry for member in members)), *members)


def _created(source: ImageSource, image: Image) -> str:
    """Return the time in the image's configuration, which is the same for the same image."""
    config = next(blob for blob in source.blobs if blob.digest == image.config.digest)
    with config.open(0) as file:
        created = decode_json(file.read()).get("created")
    return str(created or "")

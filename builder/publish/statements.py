"""in-toto statements about an image, and the signed DSSE envelopes that hold them.

Formats: in-toto Statement v1, its test-result predicate v0.1, SLSA provenance v1, DSSE v1.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import IntegrityError
from builder.foundry.in_toto import build_predicate, in_toto_statement
from builder.host import records
from builder.host.json_documents import decode_json
from builder.host.records import as_bytes
from builder.image.oci.warm_image import WARM_LABEL
from builder.remote.addresses import scrub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.signing import Signer
    from builder.model.builds import BuildSource, LockedBuild
    from builder.model.images import Image, Plan, SlimmedWheel
    from builder.model.locks import Job, Lock
    from builder.model.verdicts import Verdict

VERDICT = "https://in-toto.io/attestation/test-result/v0.1"
SBOM = "https://cyclonedx.org/bom"
AUDIT = "urn:jbuild:audit:v1"
SLIM = "urn:jbuild:slim:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_BUILD_TYPE = "urn:jbuild:build:v1"
# The path of a verdict's log on its machine is private.
_PRIVATE = ("log",)


class ContradictoryVerdictError(IntegrityError):
    """A verdict's result is about another image than the statement that holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A parsed statement: the digests of its subjects, its type and its content."""

    digests: tuple[str, ...]
    predicate_type: str
    predicate: dict[str, Any]

    @property
    def level(self) -> str | None:
        """The level of a passed verdict; None for any other statement."""
        if self.predicate_type != VERDICT or self.predicate.get("result") != "PASSED":
            return None
        level = self.predicate.get("level")
        return level if isinstance(level, str) else None

    @property
    def when(self) -> str | None:
        """The time of a verdict: UTC, ISO 8601."""
        when = self.predicate.get("when")
        return when if isinstance(when, str) else None


def statement(digest: str, name: str, predicate_type: str, predicate: dict[str, Any]) -> bytes:
    """Return a statement about an image."""
    algorithm, _, value = digest.partition(":")
    return in_toto_statement([(name, {algorithm: value})], predicate_type, predicate)


def verdict_predicate(verdict: Verdict, recipe: str, cell: str, lock: str) -> dict[str, Any]:
    """Return a verdict as a test result; fields that the format lacks are added under their own names."""
    plain = records.to_json(verdict)
    steps = [answer.question for answer in verdict.answers]
    failed = [] if verdict.passed else [f"{verdict.step}: {verdict.failure}"]
    return {
        "result": "PASSED" if verdict.passed else "FAILED",
        "configuration": [{"name": f"{recipe}/{cell}", "digest": {"sha256": lock}}],
        "passedTests": steps,
        "failedTests": failed,
        **{name: value for name, value in plain.items() if name not in _PRIVATE and value is not None},
    }


def provenance_predicate(job: Job, lock: Lock, plan: Plan, checksum: str, image: Image) -> dict[str, Any]:
    """Return the provenance of an image from its records, without times: the same image has one provenance."""
    base, _, value = lock.base.digest.partition(":")
    dependencies = [{"name": lock.base.name, "uri": lock.base.used, "digest": {base: value}}]
    for wheel in (*lock.wheels, *(lock.tools or ())):
        location = {"downloadLocation": scrub(wheel.url)} if "://" in wheel.url else {}
        uri = f"pkg:pypi/{wheel.name}@{wheel.version}"
        dependencies.append({"name": wheel.filename, "uri": uri, "digest": {"sha256": wheel.sha256}, **location})
    dependencies += [entry for build in lock.builds or () for entry in _materials(build)]
    if below := dict(image.labels).get(WARM_LABEL):
        dependencies.append(_by_digest("image without compiled files", below))
        dependencies.append(_by_digest("layer of compiled files", image.layers[-1].digest))
    for model in lock.models:
        for file in model.files:
            name = f"{model.name}/{file.path}"
            dependencies.append({"name": name, "uri": model.source, "digest": {"sha256": file.sha256}})
    external = {"recipe": job.recipe.name, "cell": job.cell.id, "values": dict(job.cell.values)}
    internal = {
        "lock": checksum,
        "plan": plan.content,
        "command": list(plan.command),
        **({"slim": [_slimming(wheel) for wheel in plan.slimmed]} if plan.slimmed else {}),
    }
    return build_predicate(_BUILD_TYPE, external, internal, dependencies)


def _by_digest(name: str, digest: str) -> dict[str, Any]:
    algorithm, _, value = digest.partition(":")
    return {"name": name, "digest": {algorithm: value}}


def _materials(build: LockedBuild) -> Iterator[dict[str, Any]]:
    """Yield the sources, the patches and the compilers of a wheel that was built."""
    owner = f"{build.name} {build.version}"
    yield {"name": f"source of {owner}", **_content(build.source)}
    for entry in build.inputs or ():
        yield {"name": f"{entry.variable} of {owner}", **_content(entry.source)}
    for patch in build.all_patches:
        yield {"name": f"patch of {owner}", "uri": patch.name, "digest": {"sha256": patch.sha256}}
    for wheel in build.requirements:
        uri = f"pkg:pypi/{wheel.name}@{wheel.version}"
        yield {"name": f"build requirement of {owner}", "uri": uri, "digest": {"sha256": wheel.sha256}}
    for tool in build.tools:
        yield {"name": f"{tool.role} of {owner}", "uri": scrub(tool.url), "digest": {"sha256": tool.sha256}}


def _content(source: BuildSource) -> dict[str, Any]:
    digest = {"sha256": source.sha256, **({"gitCommit": source.commit} if source.commit else {})}
    uri = f"git+{source.location}@{source.commit}" if source.kind == "git" else scrub(source.location)
    return {"uri": uri, "digest": digest}


def _slimming(wheel: SlimmedWheel) -> dict[str, Any]:
    """Return the transformation of a wheel: its material, its parameters, its result."""
    compiled = {"compiled": records.to_json(wheel.cubins)} if wheel.cubins else {}
    return {
        "transformation": SLIM,
        "material": {"uri": f"pkg:pypi/{wheel.name}@{wheel.version}", "digest": {"sha256": wheel.sha256}},
        "parameters": {**records.to_json(wheel.rules), "algorithm": wheel.algorithm, **compiled},
        "result": {
            "recordDigest": {"sha256": wheel.record},
            "bytesBefore": wheel.before,
            "bytesAfter": wheel.after,
            "bytesRemoved": wheel.removed,
        },
    }


def parse(content: bytes, location: str) -> Statement:
    """Parse a statement.

    Raises:
        IntegrityError: the content is not a statement, or a verdict that names two images.
    """
    try:
        document = decode_json(content)
        digests = tuple(
            f"{algorithm}:{value}" for subject in document["subject"] for algorithm, value in subject["digest"].items()
        )
        kind, predicate = str(document["predicateType"]), document["predicate"]
        _require(str(document["_type"]).startswith("https://in-toto.io/Statement/") and isinstance(predicate, dict))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("not an in-toto statement", where=location, hint="is it the right file?") from error
    if kind == VERDICT:
        _check_subject(digests, predicate, location)
    return Statement(digests=digests, predicate_type=kind, predicate=predicate)


def _check_subject(digests: tuple[str, ...], predicate: dict[str, Any], location: str) -> None:
    """Make sure that a verdict's result is about a subject of its statement; other programs may leave it out."""
    tested = predicate.get("digest")
    if tested is not None and tested not in digests:
        raise ContradictoryVerdictError(
            f"the verdict names two images: its subject is {', '.join(digests)}, and its result is about {tested}",
            where=location,
            hint="write the verdict again on the machine of the smoke run",
        )


def signed_bytes(payload: bytes) -> bytes:
    """Return the signed bytes of an envelope's signature (DSSE v1, "PAE")."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def envelope(payload: bytes, signature: str) -> bytes:
    """Return the envelope of a signed statement; `signature` is in base64."""
    signatures = [{"keyid": "", "sig": signature}]
    encoded = base64.b64encode(payload).decode()
    return as_bytes({"payloadType": PAYLOAD_TYPE, "payload": encoded, "signatures": signatures})


def sealed(content: bytes, signer: Signer | None) -> bytes:
    """Return a statement in a signed envelope, or bare without a signer."""
    return envelope(content, signer.sign(signed_bytes(content))) if signer else content


def opened(content: bytes, location: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the payload of an envelope and its signatures in base64; a bare statement has none.

    Raises:
        IntegrityError: the content is neither.
    """
    try:
        document = decode_json(content)
        if "payload" not in document:
            return content, ()
        _require(document["payloadType"] == PAYLOAD_TYPE)
        payload = base64.b64decode(document["payload"], validate=True)
        return payload, tuple(str(signature["sig"]) for signature in document["signatures"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            "neither an in-toto statement nor a signed envelope of one",
            where=location,
            hint="is it the right file?",
        ) from error


def _require(is_so: bool) -> None:
    if not is_so:
        raise ValueError("another type of document")

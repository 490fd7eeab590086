"""Verdicts that were made elsewhere: which of them count for a digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, SmokeError, UsageError
from builder.publish import statements
from builder.publish.attachments import contents
from builder.publish.signing import is_signed
from builder.recipe.levels import levels

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.publish.evidence import Artifact, Evidence
    from builder.publish.statements import Statement
    from builder.remote.registry.registry_client import RegistryClient

_UNSIGNED = "sign it (`cosign-key` under [publish] where it is made), or take it as it is with --unsigned-verdict"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attestation:
    """A statement beside an image: who says it is known only if it is `signed` by a key that is trusted."""

    artifact: Artifact
    statement: Statement
    signed: bool


def handed_over(content: bytes, digest: str, location: str, keys: Iterable[Path], *, unsigned: bool) -> Statement:
    """Return the verdict in a file, if it is about this digest, passed, and is signed by a trusted key.

    `unsigned` takes it without a signature.

    Raises:
        IntegrityError: it is not a verdict, is about another image, or has no signature of a trusted key.
        SmokeError: it says that the image failed.
        UsageError: it has no signature, or no key can check it.
    """
    payload, signatures = statements.opened(content, location)
    statement = statements.parse(payload, location)
    if statement.predicate_type != statements.VERDICT:
        raise IntegrityError(
            f"this is a statement of another kind: {statement.predicate_type}",
            where=location,
            hint="`jbuild verdict RECIPE --output FILE` writes a verdict",
        )
    if digest not in statement.digests:
        raise IntegrityError(
            f"the verdict is about {', '.join(statement.digests)}, not about {digest}",
            where=location,
            hint="hand over the verdict of this very image",
        )
    if statement.level is None or statement.level not in levels():
        result = statement.predicate.get("result")
        raise SmokeError(
            f"the verdict does not say that the image passed at a known level: {result}, {statement.level}",
            where=location,
        )
    if not unsigned:
        _check_signature(payload, signatures, tuple(keys), location)
    return statement


def _check_signature(payload: bytes, signatures: tuple[str, ...], keys: tuple[Path, ...], location: str) -> None:
    if not signatures:
        raise UsageError("the verdict is not signed, so anybody may have written it", where=location, hint=_UNSIGNED)
    if not keys:
        hint = "name the public key with --key FILE, or `trusted-keys` under [publish] in jbuild.toml"
        raise UsageError("no key to check the verdict's signature", where=location, hint=hint)
    if not is_signed(statements.signed_bytes(payload), signatures, keys):
        raise IntegrityError(
            "the verdict's signature is by none of the trusted keys",
            where=location,
            hint=f"trusted: {', '.join(map(str, keys))}",
        )


def attestations_of(
    client: RegistryClient, repository: str, digest: str, evidence: Evidence, keys: Iterable[Path]
) -> tuple[Attestation, ...]:
    """Return the statements beside an image that are about it; what cannot be read as one is passed over.

    Raises:
        RegistryError: the registry does not answer.
        UsageError: cosign is missing, and there is a key to check with.
    """
    trusted, attestations = tuple(keys), []
    for artifact in evidence.artifacts:
        if artifact.referrer.artifact_type != statements.PAYLOAD_TYPE:
            continue
        try:
            payload, signatures = statements.opened(contents(client, repository, artifact), artifact.name)
            statement = statements.parse(payload, artifact.name)
        except IntegrityError:
            # Anyone can attach anything; other content is ignored.
            continue
        if digest in statement.digests:
            signed = is_signed(statements.signed_bytes(payload), signatures, trusted)
            attestations.append(Attestation(artifact=artifact, statement=statement, signed=signed))
    return tuple(attestations)


def best(reached: Iterable[str | None]) -> str | None:
    """Return the highest of some levels; None if there is none."""
    order = levels()
    ranked = [level for level in reached if level in order]
    return max(ranked, key=order.index) if ranked else None

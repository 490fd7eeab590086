"""Verdicts that go from machine to machine: written to files, and accepted only from a trusted key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, SmokeError, UsageError
from builder.host.files import write_bytes
from builder.host.signing import is_signed, signer
from builder.pipeline.cell import CellRecords
from builder.publish import statements
from builder.publish.attachments import contents
from builder.recipe.levels import levels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Job
    from builder.model.verdicts import Verdict
    from builder.publish.evidence import Artifact, Evidence
    from builder.publish.statements import Statement
    from builder.remote.registry.registry_client import RegistryClient

_UNSIGNED = "set `cosign-key` under [publish] where the verdict is made, or accept it with --unsigned-verdict"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attestation:
    """A statement about an image; `signed` if a trusted key signed it."""

    statement: Statement
    signed: bool


def write_verdict(job: Job, session: Session, path: Path) -> Verdict:
    """Write the verdict of a cell's latest image, signed if a key is configured; return it.

    Raises:
        UsageError: the image has no passing verdict, or it cannot be signed.
        DiskError: the file cannot be written.
    """
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    image, verdict = records.image(), records.proven()
    if image is None or verdict is None:
        raise UsageError(
            "the latest image of this cell has no passing smoke verdict",
            where=job.name,
            hint=f"run `jbuild smoke {job.recipe.name} --cell {job.cell.id}`",
        )
    write_statement(job, image, verdict, session, path)
    return verdict


def write_statement(job: Job, image: Image, verdict: Verdict, session: Session, path: Path) -> None:
    """Write a verdict on a cell's image, passed or not, as a statement, signed if a key is configured.

    Raises:
        UsageError: it cannot be signed.
        DiskError: the file cannot be written.
    """
    checksum = dict(image.labels).get("io.jbuild.lock", "")
    predicate = statements.verdict_predicate(verdict, job.recipe.name, job.cell.id, checksum)
    content = statements.statement(image.digest, job.spec.publish.repository, statements.VERDICT, predicate)
    sign = signer(session.config, session.workspace)
    if sign is None:
        session.console.warn("the verdict is not signed: no `cosign-key` is configured")
    write_bytes(path, statements.sealed(content, sign))


def handed_over(content: bytes, digest: str, location: str, keys: Iterable[Path], *, unsigned: bool) -> Statement:
    """Return the verdict in a file if it is about this digest, passed, and is signed by a trusted key.

    `unsigned` accepts it without a signature.

    Raises:
        IntegrityError: it is not a verdict, is about another image, or has no signature of a trusted key.
        SmokeError: the image failed.
        UsageError: the verdict has no signature, or there is no key to check it with.
    """
    payload, signatures = statements.opened(content, location)
    statement = statements.parse(payload, location)
    if statement.predicate_type != statements.VERDICT:
        raise IntegrityError(
            f"not a verdict, but a statement of type {statement.predicate_type}",
            where=location,
            hint="`jbuild verdict RECIPE --output FILE` writes a verdict",
        )
    if digest not in statement.digests:
        raise IntegrityError(
            f"the verdict is about {', '.join(statement.digests)}, not about {digest}",
            where=location,
            hint="pass the verdict of this image",
        )
    if statement.level is None or statement.level not in levels():
        result, level = (statement.predicate.get(key) for key in ("result", "level"))
        raise SmokeError(
            f"the verdict does not state that the image passed at a known level: {result} at level {level}",
            where=location,
            hint="run the smoke run again where the image failed, and pass that verdict",
        )
    if not unsigned:
        _check_signature(payload, signatures, tuple(keys), location)
    return statement


def _check_signature(payload: bytes, signatures: tuple[str, ...], keys: tuple[Path, ...], location: str) -> None:
    if not signatures:
        raise UsageError("the verdict is not signed", where=location, hint=_UNSIGNED)
    if not keys:
        hint = "name the public key with --key FILE, or `trusted-keys` under [publish] in jbuild.toml"
        raise UsageError("no key to check the verdict's signature", where=location, hint=hint)
    if not is_signed(statements.signed_bytes(payload), signatures, keys):
        raise IntegrityError(
            "the verdict is not signed by a trusted key",
            where=location,
            hint=f"trusted: {', '.join(map(str, keys))}",
        )


def attestations_of(
    client: RegistryClient, repository: str, digest: str, evidence: Evidence, keys: Iterable[Path]
) -> tuple[Attestation, ...]:
    """Return the statements about an image in a registry; unreadable ones are skipped.

    Raises:
        RegistryError: the registry does not answer.
        UsageError: there are keys, but cosign is missing.
    """
    return attestations(digest, evidence, keys, partial(contents, client, repository))


def attestations(
    digest: str, evidence: Evidence, keys: Iterable[Path], content_of: Callable[[Artifact], bytes]
) -> tuple[Attestation, ...]:
    """Return the statements about an image, whose artifacts `content_of` reads; unreadable ones are skipped.

    Raises:
        UsageError: there are keys, but cosign is missing.
    """
    trusted, accepted = tuple(keys), []
    for artifact in evidence.artifacts:
        if artifact.referrer.artifact_type != statements.PAYLOAD_TYPE:
            continue
        try:
            payload, signatures = statements.opened(content_of(artifact), artifact.name)
            statement = statements.parse(payload, artifact.name)
        except IntegrityError:
            # Anyone can attach anything; other content is ignored.
            continue
        if digest in statement.digests:
            signed = is_signed(statements.signed_bytes(payload), signatures, trusted)
            accepted.append(Attestation(statement=statement, signed=signed))
    return tuple(accepted)


def best_verdict(verdicts: Sequence[Statement]) -> tuple[str | None, str]:
    """Return the highest level of verdicts, and the time of the newest one at that level, empty if it is unknown."""
    level = best(verdict.level for verdict in verdicts)
    return level, max((verdict.when or "" for verdict in verdicts if level and verdict.level == level), default="")


def best(reached: Iterable[str | None]) -> str | None:
    """Return the highest known level, or None."""
    order = levels()
    ranked = [level for level in reached if level in order]
    return max(ranked, key=order.index) if ranked else None

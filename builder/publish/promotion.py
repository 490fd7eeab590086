"""Copies an existing image to other registries or tags, without a build and without the engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder.errors import RegistryError, UsageError
from builder.host import records
from builder.host.signing import signer
from builder.image.layers.layer_blobs import drop_published
from builder.model.recipes import TagRule
from builder.pipeline.cell import IMPORTED, CellRecords
from builder.publish import statements
from builder.publish.attachments import evidence_of
from builder.publish.built_image import cell_evidence, source_of
from builder.publish.carried_verdicts import no_verdict, verdict_file, verdict_of
from builder.publish.evidence import Evidence, cosign_evidence, signature, together
from builder.publish.image_source import ImageSource, from_registry
from builder.publish.push import PublishOptions, publish
from builder.publish.tag_policy import earned
from builder.publish.trust import attestations_of, best, handed_over
from builder.publish.warm_candidate import warm_folder, warm_image_of
from builder.remote.registry.base_lookup import connect_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.paths import CellFolder
    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.publications import Publication, TagWithheld
    from builder.model.recipes import OnFailure
    from builder.model.verdicts import Verdict
    from builder.remote.http import Retry
    from builder.remote.registry.reference import Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionCandidate:
    """An image to promote, with its evidence and the tags of its recipe.

    `levels` are the levels of trusted verdicts, `unsigned` those of verdicts without a trusted signature. `folder` is
    the cell's, for an image that this machine built.
    """

    source: ImageSource
    evidence: Evidence
    repository: str
    levels: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    rules: tuple[TagRule, ...] = ()
    on_failure: OnFailure = "none"
    folder: CellFolder | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromoteOptions:
    """Options of the command line.

    `tags` replace the recipe's and need a verdict of `level`; `verdict` is an exported file, signed by one of `keys`,
    or a folder with such files; `unsigned` accepts verdicts without a signature too. With `warm`, the cell's warm image
    is promoted.
    """

    targets: tuple[str, ...]
    tags: tuple[str, ...] = ()
    level: str | None = None
    verdict: Path | None = None
    keys: tuple[Path, ...] = ()
    unsigned: bool = False
    warm: bool = False
    force_tags: bool = False
    repository: str | None = None
    retry: Retry | None = field(default=None, compare=False)


def from_cell(job: Job, session: Session, options: PromoteOptions) -> PromotionCandidate:
    """Return the latest image of a cell, from this disk or from the registry of its last push, or its warm image.

    Its evidence comes with it if it has passed here, or if the options have a verdict of another machine.

    Raises:
        UsageError: the cell has not been built on this machine, or has no warm image.
        RegistryError: the image is only in a registry, and the registry does not answer.
        IntegrityError: the warm image is damaged.
    """
    spec, folder = job.spec.publish, session.workspace.cell(job.recipe.name, job.cell.id)
    of_cell = CellRecords(folder)
    image, proven = of_cell.image(), of_cell.proven()
    if image is None:
        raise UsageError(
            "this cell has not been built on this machine",
            where=job.name,
            hint=f"run `jbuild recipe {job.recipe.name} --cell {job.cell.id}`, or name a registry's IMAGE@DIGEST",
        )
    if options.warm:
        image, proven = warm_image_of(job, image, warm_folder(options.verdict, folder), session)
        # What another machine says counts by its signed statement only.
        proven = None if options.verdict else proven
    attached = spec.attach and (proven or options.verdict)
    return PromotionCandidate(
        source=source_of(job, image, session),
        evidence=cell_evidence(job, image, proven, session) if attached else Evidence(),
        repository=spec.repository,
        levels=(proven.level,) if proven else (),
        # The recipe's own tags are those of the image that `jbuild push` publishes.
        rules=tuple(replace(rule, name=f"{rule.name}-warm") for rule in spec.tags) if options.warm else spec.tags,
        on_failure=spec.on_failure,
        folder=folder,
    )


def from_image(reference: Reference, session: Session, keys: tuple[Path, ...]) -> PromotionCandidate:
    """Return an image in a registry, with its attachments.

    Raises:
        RegistryError: the image is not there, or the registry does not answer.
    """
    client = connect_in(session, reference)
    source = from_registry(client, reference)
    beside = evidence_of(client, reference.repository, source.digest)
    attestations = attestations_of(client, reference.repository, source.digest, beside, keys)
    verdicts = [attestation for attestation in attestations if attestation.statement.level]
    sign, repository = signer(session.config, session.workspace), reference.repository.rpartition("/")[2]
    return PromotionCandidate(
        source=source,
        evidence=together(beside, signature(source.manifest, repository, sign)),
        repository=repository,
        levels=tuple(attestation.statement.level or "" for attestation in verdicts if attestation.signed),
        unsigned=tuple(attestation.statement.level or "" for attestation in verdicts if not attestation.signed),
    )


def is_about(verdict: Path, candidate: PromotionCandidate) -> bool:
    """Return whether a verdict's file is about an image, or a folder has a passed verdict about it.

    Raises:
        UsageError: a file cannot be read.
        IntegrityError: the file does not hold a statement.
    """
    if verdict.is_dir():
        return verdict_file(verdict, candidate.source.digest) is not None
    payload, _ = statements.opened(_read(verdict), str(verdict))
    return candidate.source.digest in statements.parse(payload, str(verdict)).digests


def promote(candidate: PromotionCandidate, options: PromoteOptions, session: Session) -> Publication:
    """Copy an image and its evidence to registries, and set the tags that its verdicts earn.

    Raises:
        PublicationError: a registry failed.
        RegistryError: the verdicts do not earn a tag of `options`.
        IntegrityError, SmokeError, UsageError: the verdict of `options` is not accepted.
    """
    candidate, imported = _with_verdict(candidate, options)
    level = best((*candidate.levels, *(candidate.unsigned if options.unsigned else ())))
    rules_by_name = {rule.name: rule for rule in candidate.rules}
    rules = (
        tuple(rules_by_name.get(name) or TagRule(name=name, level=options.level) for name in options.tags)
        or candidate.rules
    )
    if candidate.unsigned and not level:
        session.console.warn(
            "ignored the image's own verdict: it is not signed by a trusted key; --unsigned-verdict accepts it"
        )
    ignored = None if options.unsigned else best(candidate.unsigned)
    if options.tags:
        _require_tags(earned(rules, level, ignored)[1], candidate, _how_to_earn(candidate, level, ignored))
    elif level is None and not candidate.unsigned:
        session.console.warn("the image has no verdict of a passed smoke run: it is copied without tags")
    wish = PublishOptions(
        repository=options.repository or candidate.repository,
        tags=rules,
        level=level,
        ignored=ignored,
        on_failure=candidate.on_failure,
        force_tags=options.force_tags,
        evidence=candidate.evidence,
    )
    done = publish(
        candidate.source, options.targets, wish, config=session.config, console=session.console, retry=options.retry
    )
    if options.tags:
        _require_tags(done.withheld, candidate, "every registry has the digest; choose another tag with --tag")
    if imported and candidate.folder and not options.warm:
        # The audit counts it as a proof.
        records.write(candidate.folder.record(IMPORTED), imported.digest, imported)
    return done


def clean_up(candidates: Sequence[PromotionCandidate], session: Session) -> None:
    """Remove the blobs of the promoted images' layers from the cache.

    Raises:
        DiskError: one cannot be removed.
    """
    plans = (CellRecords(candidate.folder).plan() for candidate in candidates if candidate.folder)
    drop_published([plan for plan in plans if plan], session)


def _how_to_earn(candidate: PromotionCandidate, level: str | None, ignored: str | None) -> str:
    if ignored and level is None:
        return "accept the unsigned verdict with --unsigned-verdict, or trust its key with --key"
    if level is None and candidate.folder:
        return f"run `jbuild smoke {candidate.folder.path.parent.name}` first; nothing was uploaded"
    return (
        "pass a better verdict with --verdict FILE, such as that of `jbuild smoke --bundle DIR` on a machine with a GPU"
    )


def _require_tags(withheld: Sequence[TagWithheld], candidate: PromotionCandidate, hint: str) -> None:
    if withheld:
        text = "; ".join(f"tag {tag.name} was not put: {tag.reason}" for tag in withheld)
        raise RegistryError(text, where=candidate.source.digest, hint=hint)


def _with_verdict(candidate: PromotionCandidate, options: PromoteOptions) -> tuple[PromotionCandidate, Verdict | None]:
    """Return the image with the verdict of the options, and this verdict's record."""
    if options.verdict is None:
        return candidate, None
    digest = candidate.source.digest
    file = verdict_file(options.verdict, digest)
    if file is None:
        raise no_verdict(options.verdict, digest)
    content = _read(file)
    statement = handed_over(content, digest, str(file), options.keys, unsigned=options.unsigned)
    proven = replace(
        candidate,
        evidence=together(candidate.evidence, cosign_evidence(candidate.source.manifest, "verdict", content)),
        levels=(*candidate.levels, statement.level or ""),
    )
    return proven, verdict_of(statement, file)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "run `jbuild verdict RECIPE --output FILE` on the machine of the smoke run"
        raise UsageError(f"cannot read the verdict: {error.strerror}", where=str(path), hint=hint) from error

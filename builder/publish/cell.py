"""Publishes the image of a cell, with what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import records
from builder.publish import signing
from builder.publish.evidence import Evidence, of_cell
from builder.publish.push import Wish, publish
from builder.publish.source import from_layout
from builder.publish.where import required_targets
from builder.workspace import sha256_of

if TYPE_CHECKING:
    from builder.config import Config
    from builder.image.model import Image, Plan
    from builder.publish.model import Publication
    from builder.resolve.model import Job, Lock
    from builder.session import Session
    from builder.smoke.model import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Proven:
    """A cell's image with its verdict, and where it is to go."""

    job: Job
    lock: Lock
    plan: Plan
    image: Image
    verdict: Verdict
    targets: tuple[str, ...]


def check(job: Job, registries: tuple[str, ...], config: Config) -> None:
    """Refuse at once what would fail only after hours; `registries` are those of the command line.

    Raises:
        UsageError: nobody says where the image is to go, or it cannot be signed.
    """
    required_targets(job.spec.publish, registries, config, where=str(job.recipe.path))
    if config.cosign_key:
        signing.check(config.cosign_key)


def inputs_of(proven: Proven, session: Session) -> str:
    """Return the fingerprint of everything that a publication is made from."""
    key = session.config.cosign_key
    signed = sha256_of(key) if key else None
    spec = proven.job.spec.publish
    return records.fingerprint(proven.image.digest, spec, proven.targets, proven.verdict.level, signed)


def publish_cell(proven: Proven, session: Session, *, force_tags: bool) -> Publication:
    """Bring a cell's image to its registries, with its evidence, and put the tags that it has earned.

    Raises:
        PublicationError: a registry failed.
        IntegrityError: the layout does not hold the image.
        UsageError, RegistryError: it cannot be signed.
    """
    job, spec = proven.job, proven.job.spec.publish
    known = of_cell(proven.image, job, proven.lock, proven.plan, proven.verdict, session) if spec.attach else Evidence()
    wish = Wish(
        repository=spec.repository,
        tags=spec.tags,
        level=proven.verdict.level,
        on_failure=spec.on_failure,
        force_tags=force_tags,
        evidence=known,
    )
    source = from_layout(proven.image, session.workspace.images)
    return publish(source, proven.targets, wish, config=session.config, console=session.console)

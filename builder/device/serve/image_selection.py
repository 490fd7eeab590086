"""The image of a cell that is to be run: published, else proved here, else in a registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.device.serve.image_choice import host_of, pick, published_image
from builder.errors import UsageError
from builder.model.images import proven_name
from builder.pipeline.cell import CellRecords
from builder.publish.destinations import required_targets, targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Job
    from builder.model.publications import Publication


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedImage:
    """A reference that the engine can start: in a registry by digest, or by its name in the engine that proved it."""

    reference: str
    digest: str | None
    where: Literal["registry", "engine", "given"]


def image_of(job: Job, session: Session, given: str | None = None, registries: tuple[str, ...] = ()) -> SelectedImage:
    """Return the image of a cell: the one given, else the one published from here, else built here, else published.

    Raises:
        UsageError: there is none.
        RegistryError: the registry that may have it does not answer.
    """
    if given:
        return SelectedImage(reference=given, digest=None, where="given")
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    publication, image = records.publication(), records.image()
    if publication and publication.registries and not registries and _is_current(publication, image):
        repository = publication.registries[0].repository
        return SelectedImage(
            reference=f"{repository}@{publication.digest}", digest=publication.digest, where="registry"
        )
    if image and records.proven() and not registries:
        return SelectedImage(reference=proven_name(job.recipe.name, job.cell.id), digest=image.digest, where="engine")
    sources = targets(job.spec.publish, registries, session.config)
    published = published_image(job, sources, session) if sources else None
    if published is None:
        looked = f"none is in {', '.join(sources)}" if sources else "no registry is configured"
        raise UsageError(
            f"no image of {job.name}: this machine has none, and {looked}",
            where=str(job.recipe.path),
            hint=f"make it: `jbuild recipe {job.recipe.name} --cell {job.cell.id}`, or name one with --image",
        )
    return SelectedImage(reference=published[0], digest=published[1], where="registry")


def choose(
    jobs: Sequence[Job], session: Session, *, board: str | None, given: str | None, registries: tuple[str, ...]
) -> tuple[Job, SelectedImage]:
    """Return the only cell and its image, or of several the one that is best for a board, else for this machine.

    Raises:
        UsageError: none is to be had, or none runs there.
        RegistryError: the registry that may have it does not answer.
    """
    if len(jobs) == 1:
        return jobs[0], image_of(jobs[0], session, given, registries)
    recipe = jobs[0].recipe
    if given:
        raise UsageError(
            f"an image is of one cell, and {len(jobs)} are selected", where=recipe.name, hint="name it with --cell"
        )
    sources = required_targets(jobs[0].spec.publish, registries, session.config, location=str(recipe.path))
    host = host_of(board, None)
    rows = pick(jobs, host, sources, session)
    best = rows[0]
    if best.out or not best.image:
        reasons = "; ".join(f"{row.cell}: {row.out[0]}" for row in rows)
        hint = f"name one with --cell; `jbuild pick {recipe.name}` says it all"
        raise UsageError(f"no image for {host.name}: {reasons}", where=recipe.name, hint=hint)
    (job,) = [job for job in jobs if job.cell.id == best.cell]
    return job, SelectedImage(reference=best.image, digest=best.digest, where="registry")


def _is_current(publication: Publication, image: Image | None) -> bool:
    """A publication counts unless another image has been built since."""
    return image is None or image.digest == publication.digest

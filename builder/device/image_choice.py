"""The image of a recipe that a device runs, and the reasons against the others."""

from __future__ import annotations

import platform as machine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from packaging.version import InvalidVersion, Version

from builder.device.service import memory_of
from builder.errors import UsageError
from builder.jetson.boards import board as board_of
from builder.jetson.device import TargetHost, cannot_run, this_device
from builder.jetson.platform import check_value
from builder.model.images import proven_name
from builder.pipeline.cell import CellRecords
from builder.publish.stage import required_targets, targets
from builder.publish.tag_status import overview
from builder.recipe.levels import levels, reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.publish.tag_status import TagState

_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
_FITS = ("fits", "fewer", "unknown", "no", "refused")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCandidate:
    """A cell's image for a host; `image` names a published one by digest.

    `level` is the best level that its verdicts prove, `sms` are the compute capabilities that it serves, `out` the
    reasons against it, `notes` other remarks.
    """

    cell: str
    image: str | None
    tag: str | None
    digest: str | None
    level: str | None
    vllm: str | None
    l4t: str | None
    cuda: str | None
    fit: str
    sms: tuple[str, ...] = ()
    out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedImage:
    """An image that the engine can start: by digest in a registry, or by its name in the engine after its smoke run."""

    reference: str
    digest: str | None
    where: Literal["registry", "engine", "given"]


def host_of(board: str | None, l4t: str | None) -> TargetHost:
    """Return the host with a board and an L4T release; the defaults are those of this machine.

    Raises:
        UsageError: the board or the release is unknown.
    """
    mistake = check_value("l4t", l4t) if l4t else None
    if mistake:
        raise UsageError(mistake[0], hint=mistake[1])
    device, jetson = this_device(), partial(TargetHost, architecture="arm64", is_jetson=True)
    if board:
        board_row = board_of(board)
        if not board_row.is_jetson:
            return TargetHost(name=board_row.name, architecture="amd64", is_jetson=False, board=board_row)
        own = device.l4t if device and device.board == board else None
        return jetson(name=board_row.name, l4t=l4t or own, board=board_row)
    if device:
        device_board = board_of(device.board) if device.board else None
        return jetson(name=device.model, l4t=l4t or device.l4t, board=device_board)
    if l4t:
        return jetson(name=f"a Jetson with L4T {l4t}", l4t=l4t)
    own_architecture = _ARCHITECTURES.get(machine.machine(), machine.machine())
    return TargetHost(name=f"this machine ({own_architecture})", architecture=own_architecture, is_jetson=False)


def pick(
    jobs: Sequence[Job], host: TargetHost, targets: Sequence[str], session: Session, *, level: str | None = None
) -> tuple[ImageCandidate, ...]:
    """Return the images of all cells, the best for the host first; the verdict must reach `level`.

    Raises:
        RegistryError: a registry's answer cannot be read.
    """
    rows = overview(jobs, targets, session)
    return tuple(sorted((_judged(job, host, rows, session, level) for job in jobs), key=_rank))


def image_of(job: Job, session: Session, given: str | None = None, registries: tuple[str, ...] = ()) -> SelectedImage:
    """Return a cell's image: `given`, else published from here, else proven here, else published from elsewhere.

    Raises:
        UsageError: all of them are missing.
        RegistryError: a registry does not answer.
    """
    if given:
        return SelectedImage(reference=given, digest=None, where="given")
    records = CellRecords(session.workspace.cell(job.recipe.name, job.cell.id))
    publication, image = records.publication(), records.image()
    is_latest = image is None or publication is None or image.digest == publication.digest
    if publication and publication.registries and not registries and is_latest:
        return _in_registry(publication.registries[0].repository, publication.digest)
    if image and records.proven() and not registries:
        return SelectedImage(reference=proven_name(job.recipe.name, job.cell.id), digest=image.digest, where="engine")
    sources = targets(job.spec.publish, registries, session.config)
    published = published_image(job, sources, session) if sources else None
    if published is None:
        looked = f"none is in {', '.join(sources)}" if sources else "no registry is configured"
        raise UsageError(
            f"no image of {job.name}: this machine has none, and {looked}",
            where=str(job.recipe.path),
            hint=f"build it: `jbuild recipe {job.recipe.name} --cell {job.cell.id}`, or name one with --image",
        )
    return published


def published_image(job: Job, targets: Sequence[str], session: Session) -> SelectedImage | None:
    """Return the image of a cell in a registry: the one with the best verdict."""
    best = _best([row for row in overview([job], targets, session) if row.cell == job.cell.id])
    return _in_registry(best.repository, str(best.digest)) if best else None


def _in_registry(repository: str, digest: str) -> SelectedImage:
    return SelectedImage(reference=f"{repository}@{digest}", digest=digest, where="registry")


def choose(
    jobs: Sequence[Job], session: Session, *, board: str | None, given: str | None, registries: tuple[str, ...]
) -> tuple[Job, SelectedImage]:
    """Return the cell with the best image for a board, by default for this machine, and the image.

    Raises:
        UsageError: every image is missing, or unable to run there.
        RegistryError: a registry does not answer.
    """
    if len(jobs) == 1:
        return jobs[0], image_of(jobs[0], session, given, registries)
    recipe = jobs[0].recipe
    if given:
        raise UsageError(
            f"an image belongs to one cell, but {len(jobs)} are selected", where=recipe.name, hint="name it with --cell"
        )
    sources = required_targets(jobs[0].spec.publish, registries, session.config, location=str(recipe.path))
    host = host_of(board, None)
    rows = pick(jobs, host, sources, session)
    best = rows[0]
    if best.out or not best.image:
        reasons = "; ".join(f"{row.cell}: {row.out[0]}" for row in rows)
        hint = f"name one with --cell; `jbuild pick {recipe.name}` shows all reasons"
        raise UsageError(f"no image for {host.name}: {reasons}", where=recipe.name, hint=hint)
    (job,) = [job for job in jobs if job.cell.id == best.cell]
    return job, SelectedImage(reference=best.image, digest=best.digest, where="registry")


def _judged(
    job: Job, host: TargetHost, rows: Sequence[TagState], session: Session, level: str | None
) -> ImageCandidate:
    own, platform = [row for row in rows if row.cell == job.cell.id], job.platform
    best = _best(own)
    memory = memory_of(job, host.board, session) if host.board else None
    fit = memory.fit.verdict if memory and memory.fit else "unknown"
    out = cannot_run(job, host)
    silent = [f"unknown: {row.repository}: {row.note}" for row in rows if row.state == "unknown"]
    if host.board and fit == "no":
        out.append(f"by estimate, its model does not fit {host.board.name}: `jbuild fit` shows the sum")
    if memory and memory.fit and not out:
        out += memory.fit.refusals
    return ImageCandidate(
        cell=job.cell.id,
        image=f"{best.repository}@{best.digest}" if best else None,
        tag=best.tag if best else None,
        digest=best.digest if best else None,
        level=best.level if best else None,
        vllm=dict(job.cell.values).get("vllm"),
        l4t=platform.l4t,
        cuda=platform.cuda,
        fit=fit,
        sms=platform.sms,
        out=(*out, *_unproven(best, own, silent, level)),
        notes=memory.remarks if memory and fit != "no" else (),
    )


def _unproven(best: TagState | None, rows: Sequence[TagState], silent: list[str], level: str | None) -> list[str]:
    """Return the reasons against an image from its verdict; `silent` names the registries that did not answer."""
    if best is None:
        names = dict.fromkeys(f"{row.repository}:{row.tag}" for row in rows)
        missing = [f"not published: there is no {' and no '.join(names)}"] if names else []
        return [*missing, *silent] or ["not published"]
    if best.level is None:
        return ["it has no accepted verdict"]
    if not reaches(best.level, level):
        return [f"its verdict has the level {best.level}, not {level} or better"]
    return []


def _best(rows: Sequence[TagState]) -> TagState | None:
    return max((row for row in rows if row.digest), key=lambda row: _level_rank(row.level), default=None)


def _level_rank(level: str | None) -> int:
    return levels().index(level) if level in levels() else -1


def _rank(candidate: ImageCandidate) -> tuple[object, ...]:
    """Sort images that run before others, the GPU before the CPU, then by memory, level and versions.

    Of the same versions, an image for fewer GPUs comes first: it is smaller.
    """
    return (
        len(candidate.out) > 0,
        candidate.cuda is None,
        _FITS.index(candidate.fit),
        -_level_rank(candidate.level),
        *(_newest_first(text) for text in (candidate.vllm, candidate.l4t, candidate.cuda)),
        len(candidate.sms),
        candidate.cell,
    )


def _newest_first(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(-number for number in Version(text or "0").release)
    except InvalidVersion:
        return (1,)

"""Which image of a recipe a device is to run, and why not the others."""

from __future__ import annotations

import platform as machine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from builder.device.serve.memory_limits import memory_of
from builder.errors import UsageError
from builder.jetson.boards import board as board_of
from builder.jetson.device import TargetHost, cannot_run, this_device
from builder.jetson.platform import check_value
from builder.publish.tag_status import overview
from builder.recipe.levels import levels, reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.publish.tag_status import TagState

_ARCHITECTURES = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "amd64", "amd64": "amd64"}
_FITS = ("fits", "fewer", "unknown", "no")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCandidate:
    """A cell's image and what stands against it; `image` names it by digest where it is published.

    `level` is the best that verdicts beside it prove. `out` are the reasons why the host cannot run it, `notes` what
    else is to be known.
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
    out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def host_of(board: str | None, l4t: str | None) -> TargetHost:
    """Return the host of a board's name and a release, else this machine; each is found out where it is not given.

    Raises:
        UsageError: the board or the release is unknown.
    """
    mistake = check_value("l4t", l4t) if l4t else None
    if mistake:
        raise UsageError(mistake[0], hint=mistake[1])
    device = this_device()
    if board:
        board_row = board_of(board)
        own = device.l4t if device and device.board == board else None
        return TargetHost(name=board_row.name, architecture="arm64", is_jetson=True, l4t=l4t or own, board=board_row)
    if device:
        device_board = board_of(device.board) if device.board else None
        return TargetHost(
            name=device.model, architecture="arm64", is_jetson=True, l4t=l4t or device.l4t, board=device_board
        )
    if l4t:
        return TargetHost(name=f"a Jetson with L4T {l4t}", architecture="arm64", is_jetson=True, l4t=l4t)
    own_architecture = _ARCHITECTURES.get(machine.machine(), machine.machine())
    return TargetHost(name=f"this machine ({own_architecture})", architecture=own_architecture, is_jetson=False)


def pick(
    jobs: Sequence[Job], host: TargetHost, targets: Sequence[str], session: Session, *, level: str | None = None
) -> tuple[ImageCandidate, ...]:
    """Return all cells' images, those that the host can run first, the best of them foremost.

    `level` is what the verdict must reach.

    Raises:
        RegistryError: what the registry says makes no sense.
    """
    rows = overview(jobs, targets, session)
    candidates = [_judged(job, host, [row for row in rows if row.cell == job.cell.id], session, level) for job in jobs]
    silent = [f"{row.repository}: {row.note}" for row in rows if row.state == "unknown"]
    candidates = [_with_silence(candidate, silent) for candidate in candidates]
    return tuple(sorted(candidates, key=_rank))


def published_image(job: Job, targets: Sequence[str], session: Session) -> tuple[str, str] | None:
    """Return the image of a cell in a registry, by digest, and the digest: the one with the best verdict."""
    best = _best([row for row in overview([job], targets, session) if row.cell == job.cell.id])
    return (f"{best.repository}@{best.digest}", str(best.digest)) if best else None


def _judged(
    job: Job, host: TargetHost, rows: Sequence[TagState], session: Session, level: str | None
) -> ImageCandidate:
    best, platform = _best(rows), job.platform
    fit, against, notes = _memory(job, host, session)
    out = [*cannot_run(job, host), *against, *_unproven(best, rows, level)]
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
        out=tuple(out),
        notes=tuple(notes),
    )


def _memory(job: Job, host: TargetHost, session: Session) -> tuple[str, list[str], list[str]]:
    """Return what the estimate says of the host's memory, what stands against it, and what is to be known."""
    if host.board is None:
        return "unknown", [], []
    memory = memory_of(job, host.board, session)
    verdict = memory.fit.verdict if memory.fit else "unknown"
    if verdict == "no":
        return verdict, [f"by estimate its model does not fit {host.board.name}: `jbuild fit` shows the sum"], []
    return verdict, [], list(memory.remarks)


def _unproven(best: TagState | None, rows: Sequence[TagState], level: str | None) -> list[str]:
    if best is None:
        names = dict.fromkeys(f"{row.repository}:{row.tag}" for row in rows)
        return [f"not published: there is no {' and no '.join(names)}"] if names else ["not published"]
    if best.level is None:
        return ["it has no accepted verdict"]
    if not reaches(best.level, level):
        return [f"its verdict is of level {best.level}, not {level} or better"]
    return []


def _with_silence(candidate: ImageCandidate, silent: Sequence[str]) -> ImageCandidate:
    """Say of what is not published which registries did not answer: it may be there."""
    if candidate.image or not silent:
        return candidate
    return replace(
        candidate, out=(*(r for r in candidate.out if r != "not published"), *(f"not known: {s}" for s in silent))
    )


def _best(rows: Sequence[TagState]) -> TagState | None:
    published = [row for row in rows if row.digest]
    order = levels()
    return max(published, key=lambda row: order.index(row.level) if row.level in order else -1, default=None)


def _rank(candidate: ImageCandidate) -> tuple[object, ...]:
    """Sort what runs before what does not, the GPU before the CPU, then by room, level, and versions."""
    order = levels()
    level = order.index(candidate.level) if candidate.level in order else -1
    return (
        len(candidate.out) > 0,
        candidate.l4t is None,
        _FITS.index(candidate.fit),
        -level,
        *(_newest_first(text) for text in (candidate.vllm, candidate.l4t, candidate.cuda)),
        candidate.cell,
    )


def _newest_first(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(-number for number in Version(text or "0").release)
    except InvalidVersion:
        return (1,)

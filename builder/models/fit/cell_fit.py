"""Estimates whether the model of a cell and its server fit into a board's memory, and words the lock's warning."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.jetson.boards import boards_of
from builder.models.fit.fit_defaults import overheads
from builder.models.fit.kv_cache import element_bytes, longest, sequence_bytes, token_bytes
from builder.models.fit.memory_estimate import BoardFit, CellFit, Machine, MemoryItem
from builder.models.fit.model_shape import read_shape
from builder.models.fit.quantisation import needs_sm_89
from builder.models.fit.server_options import pinned_version, reaches, settings_of
from builder.models.fit.weights import ModelFiles, local_files, locked_files, weigh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.host.session import Session
    from builder.jetson.boards import Board
    from builder.model.locks import Job
    from builder.model.model_files import LockedModel
    from builder.model.platforms import Platform
    from builder.models.fit.memory_estimate import ServingSettings, Shape, Verdict

_MIB = 1 << 20
_SYSTEM = "operating system"
# The limit for models whose configuration has no length, in tokens.
_LONGEST_LENGTH = 1 << 24
# Per token: the gate, up and activated projections of the widest layer, and four hidden vectors.
_WIDE, _NARROW = 3, 4
# Per sequence and vocabulary entry: the logits and three copies of them during sampling, 4 bytes each.
_LOGITS_BYTES = 16
_SM_FP8 = 8.9
# `ModelOptFp8Config.get_min_capability` is 80 there, 89 in 0.20.2; the versions between are not read.
_MODELOPT_MARLIN = (0, 33)


def fit_cell(job: Job, models: Sequence[LockedModel] | None, session: Session, boards: Sequence[str] = ()) -> CellFit:
    """Return the estimate for the model that a cell serves: on these boards, else the recipe's, else all that suit.

    `models` are the lock's, None without a lock.

    Raises:
        ModelError: config.json or the weights are missing or damaged.
        UsageError: a board is unknown.
    """
    files = served_files(job, models, session)
    shape = read_shape(files.name, *files.config())
    machines = boards_of(job, boards)
    fits = tuple(_estimate(job, shape, files, board) for board in machines or (None,))
    return CellFit(cell=job.cell.id, model=files.name, shape=shape, boards=fits)


def warning(fit: CellFit, *, named: bool) -> str | None:
    """Return a lock's warning about boards that are too small for the model, or None.

    If the recipe named the boards, it also names those where the server starts only with a lower utilization.
    """
    too_small = [board_fit.machine.board for board_fit in fit.boards if board_fit.machine and board_fit.verdict == "no"]
    phrases = [f"it does not fit {', '.join(too_small)}"] if too_small else []
    phrases += [
        f"on {board_fit.machine.board} the server starts with --gpu-memory-utilization {board_fit.lower_to:g}"
        for board_fit in fit.boards
        if named and board_fit.machine and board_fit.lower_to is not None
    ]
    if not phrases:
        return None
    return f"model {fit.model}: by estimate, {'; '.join(phrases)}; `jbuild fit` shows the sum"


def served_files(job: Job, models: Sequence[LockedModel] | None, session: Session) -> ModelFiles:
    """Return the files of the model that a cell serves; `models` as above.

    Raises:
        ModelError: the recipe names no such model, or it has neither a lock nor a folder.
    """
    folder, served = job.recipe.path.parent, job.spec.server.model
    if models is None:
        model = next((candidate for candidate in job.spec.models if candidate.name == served), None)
        if model:
            return local_files(model, folder, session.config)
    locked = next((candidate for candidate in models or () if candidate.name == served), None)
    if locked is None:
        raise ModelError(f"the cell has no model {served}, which its server names", where=str(job.recipe.path))
    return locked_files(locked, folder, session)


def _estimate(job: Job, shape: Shape, files: ModelFiles, board: Board | None) -> BoardFit:
    """Return the estimate for one board; without a board, only the memory that the server needs."""
    if board and not (board.is_jetson or job.platform.has_gpu):
        fit = _estimate(job, shape, files, None)
        unknown = f"jbuild does not know the main memory of {board.name}, which a server on the CPU needs"
        return replace(fit, remarks=(*fit.remarks, unknown))
    gpu, memory, vllm = job.platform.has_gpu, board.usable if board else None, pinned_version(job.spec.requires)
    settings = settings_of(job.spec.server, shape, gpu=gpu, vllm=vllm, memory=memory)
    if not shape.has_cache:
        settings = replace(settings, kv_space=None)
    overhead = _overheads(settings, gpu=gpu, outside=False)
    items = (weigh(files, shape, settings.dtype), _activations(shape, settings), *overhead)
    fixed = sum(item.size for item in items)
    machine = _machine(board, settings, gpu=gpu) if board else None
    left = _left(settings, fixed, machine, on_cpu=not gpu and shape.has_cache)
    sequence_size = sequence_bytes(shape, settings, settings.length) if shape.layers else 0
    limit = shape.longest or _LONGEST_LENGTH
    room = left if shape.layers or not shape.has_cache else None
    fit = BoardFit(
        machine=machine,
        settings=settings,
        lines=items,
        kv_token=token_bytes(shape, settings),
        kv_sequence=sequence_size,
        left=left,
        whole=round(max(room, 0) / sequence_size, 2) if room is not None and sequence_size else None,
        longest=None if room is None else longest(shape, settings, room // settings.sequences, limit),
        longest_one=None if room is None else longest(shape, settings, room, limit),
        verdict=_verdict(settings, fixed, machine, room, sequence_size),
    )
    notes = (*_remarks(fit, shape, board, job.platform), *_fp8_remarks(fit, shape, board, vllm))
    fit = replace(fit, remarks=(*settings.remarks, *shape.unknown, *notes))
    mismatch = board.mismatch(job.platform) if board else None
    return fit.with_refusals(mismatch) if mismatch else fit


def _activations(shape: Shape, settings: ServingSettings) -> MemoryItem:
    passing = settings.batched_tokens * (_WIDE * shape.intermediate + _NARROW * shape.hidden)
    size = passing * element_bytes(settings.dtype) + settings.most_sequences * shape.vocabulary * _LOGITS_BYTES
    why = (
        f"{settings.batched_tokens} tokens through the widest layer, logits of {settings.most_sequences} sequences "
        "(11 % above what vLLM found for Llama 3 8B, vllm#10511); image and audio encoders are not counted"
    )
    return MemoryItem(name="activations", size=size, basis="estimate", why=why)


def _overheads(settings: ServingSettings, *, gpu: bool, outside: bool, shared: bool = True) -> tuple[MemoryItem, ...]:
    """Return the overheads in the server's share of the memory, or those `outside` it.

    `shared`: system and GPU share the memory.
    """
    return tuple(
        MemoryItem(name=row.name, size=row.mib * _MIB, basis="estimate", why=row.source)
        for row in overheads()
        if row.of in (("gpu", "system" if shared else "device") if gpu else ("cpu",))
        and outside == (row.of in ("system", "device") or row.name == _SYSTEM)
        and not (row.unless == "--enforce-eager" and settings.eager)
    )


def _machine(board: Board, settings: ServingSettings, *, gpu: bool) -> Machine:
    outside = _overheads(settings, gpu=gpu, outside=True, shared=board.is_jetson)
    free = max(0, board.usable - sum(item.size for item in outside))
    reserved = int(board.usable * settings.utilization) if gpu else free
    return Machine(
        board=board.name,
        usable=board.usable,
        measured=board.is_measured,
        outside=outside,
        share=min(reserved, free),
        utilization=math.floor(100 * free / board.usable) / 100 if gpu else None,
    )


def _left(settings: ServingSettings, fixed: int, machine: Machine | None, *, on_cpu: bool) -> int | None:
    """Return the bytes of the server's share that the fixed items leave.

    A server on the CPU (`on_cpu`) takes VLLM_CPU_KVCACHE_SPACE of it, at most.
    """
    if machine is None:
        return settings.kv_space
    free = machine.share - fixed
    return min(settings.kv_space or machine.usable // 2, free) if on_cpu else free


def _verdict(
    settings: ServingSettings, fixed: int, machine: Machine | None, room: int | None, sequence_size: int
) -> Verdict:
    if machine and fixed + (settings.kv_space or 0) > machine.share:
        return "no"
    if room is None:
        return "unknown"
    if sequence_size > room:
        return "no"
    return "fits" if sequence_size * settings.sequences <= room else "fewer"


def _fp8_remarks(fit: BoardFit, shape: Shape, board: Board | None, vllm: str | None) -> Iterator[str]:
    """Yield what FP8 needs of a board's GPU."""
    if board is None or fit.machine is None or fit.machine.utilization is None or float(board.sm) >= _SM_FP8:
        return
    if fit.settings.kv_dtype.startswith("fp8"):
        yield (
            f"SM {board.sm} of {board.name} has no fp8e4nv, Triton's type for an fp8 KV cache: some attention backends "
            "do not start with it"
        )
    if needs_sm_89(shape.quantised, shape.algorithm) and not reaches(vllm, _MODELOPT_MARLIN):
        yield f"ModelOpt's FP8 weights need SM {_SM_FP8} in vLLM 0.15.1 and 0.20.2; {board.name} has SM {board.sm}"


def _remarks(fit: BoardFit, shape: Shape, board: Board | None, platform: Platform) -> Iterator[str]:
    settings, kv_space = fit.settings, fit.settings.kv_space
    if not shape.has_cache:
        yield f"{shape.model_type} is an encoder: it has no KV cache"
    elif not platform.has_gpu and kv_space is None:
        yield "VLLM_CPU_KVCACHE_SPACE is not set: the estimate assumes half of the memory, vLLM 0.15.1's default"
    if board is None:
        return
    if fit.left is not None and kv_space and fit.left < kv_space:
        yield f"VLLM_CPU_KVCACHE_SPACE is more than the memory left on {board.name}"
    if not board.is_measured:
        reader = "Linux" if board.is_jetson else "the driver"
        yield f"the memory that {reader} sees on {board.name} is not published; the estimate assumes 93 % of it"
    if not board.is_jetson:
        yield f"memory of {board.name} is the GPU's own; the system's is not counted"
    if fit.lower_to is not None:
        lower = f"set {fit.lower_to:g} or less; the estimate assumes that" if fit.lower_to > 0 else "no memory is free"
        yield f"--gpu-memory-utilization {settings.utilization:g} exceeds the free memory of {board.name}: {lower}"

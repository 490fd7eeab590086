"""The sum: what a model and its server need, against a board's memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from builder.models.fit.fit_defaults import overheads
from builder.models.fit.kv_cache import element_bytes, longest, sequence_bytes, token_bytes
from builder.models.fit.memory_estimate import BoardFit, Machine, MemoryItem, ServingSettings, Shape, Verdict
from builder.models.fit.server_options import settings_of
from builder.models.fit.weights import weigh

if TYPE_CHECKING:
    from builder.jetson.boards import Board
    from builder.model.recipes import ServerSpec
    from builder.models.fit.model_config import ModelFiles

_MIB = 1 << 20
# Enough for any model whose configuration names no length.
_LONGEST_LENGTH = 1 << 24
# For one token: the gate, the up and the activated projection of the widest layer, and four vectors beside them.
_WIDE, _NARROW = 3, 4
# For one sequence: the logits and three copies of them while a token is chosen, each of 4 bytes a token known.
_LOGITS_BYTES = 16


def estimate(
    server: ServerSpec, shape: Shape, files: ModelFiles, board: Board | None, *, gpu: bool, vllm: str | None
) -> BoardFit:
    """Return the estimate for one board; without a board, what is needed.

    Raises:
        ModelError: a weight file is damaged.
    """
    memory = board.usable if board else None
    settings = settings_of(server, shape, gpu=gpu, vllm=vllm, memory=memory)
    lines = (weigh(files, shape, settings.dtype), _activations(shape, settings), *_overheads(settings, gpu=gpu))
    machine = _machine(board, settings, gpu=gpu) if board else None
    return _judge(shape, settings, lines, machine, gpu=gpu)


def _activations(shape: Shape, settings: ServingSettings) -> MemoryItem:
    passing = settings.batched_tokens * (_WIDE * shape.intermediate + _NARROW * shape.hidden)
    size = passing * element_bytes(settings.dtype) + settings.most_sequences * shape.vocabulary * _LOGITS_BYTES
    why = (
        f"{settings.batched_tokens} tokens through the widest layer, logits of {settings.most_sequences} sequences "
        "(11 % above what vLLM found for Llama 3 8B, vllm#10511); what an image or audio encoder needs is not counted"
    )
    return MemoryItem(name="activations", size=size, basis="estimate", why=why)


def _overheads(settings: ServingSettings, *, gpu: bool) -> tuple[MemoryItem, ...]:
    memory_kind = "gpu" if gpu else "cpu"
    rows = (row for row in overheads() if row.of == memory_kind and row.name != "operating system")
    return tuple(
        MemoryItem(name=row.name, size=row.mib * _MIB, basis="estimate", why=row.source)
        for row in rows
        if not (row.unless == "--enforce-eager" and settings.eager)
    )


def _machine(board: Board, settings: ServingSettings, *, gpu: bool) -> Machine:
    memory_kind = "system" if gpu else "cpu"
    rows = (row for row in overheads() if row.of == memory_kind and (gpu or row.name == "operating system"))
    outside = tuple(MemoryItem(name=row.name, size=row.mib * _MIB, basis="estimate", why=row.source) for row in rows)
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


def _judge(
    shape: Shape, settings: ServingSettings, lines: tuple[MemoryItem, ...], machine: Machine | None, *, gpu: bool
) -> BoardFit:
    left = _left(settings, lines, machine, gpu=gpu)
    one = sequence_bytes(shape, settings, settings.length) if shape.layers else 0
    limit = shape.longest or _LONGEST_LENGTH
    room = left if left is not None and shape.layers else None
    return BoardFit(
        machine=machine,
        settings=settings,
        lines=lines,
        kv_token=token_bytes(shape, settings),
        kv_sequence=one,
        left=left,
        whole=round(max(room, 0) / one, 2) if room is not None and one else None,
        longest=None if room is None else longest(shape, settings, room // settings.sequences, limit),
        longest_one=None if room is None else longest(shape, settings, room, limit),
        verdict=_verdict(shape, settings, lines, machine, left, one),
        remarks=(*settings.remarks, *shape.unknown, *_remarks(settings, machine, left, gpu=gpu)),
    )


def _left(
    settings: ServingSettings, lines: tuple[MemoryItem, ...], machine: Machine | None, *, gpu: bool
) -> int | None:
    """Return what remains for the KV cache; a server on the CPU takes what it was told, if that is there."""
    fixed = sum(item.size for item in lines)
    if machine is None:
        return settings.kv_space
    free = machine.share - fixed
    if gpu:
        return free
    return min(settings.kv_space, free) if settings.kv_space else min(machine.usable // 2, free)


def _verdict(
    shape: Shape,
    settings: ServingSettings,
    lines: tuple[MemoryItem, ...],
    machine: Machine | None,
    left: int | None,
    one: int,
) -> Verdict:
    if left is None:
        return "unknown"
    if machine and sum(item.size for item in lines) + (settings.kv_space or 0) > machine.share:
        return "no"
    if not shape.layers:
        return "unknown"
    if one > left:
        return "no"
    return "fits" if one * settings.sequences <= left else "fewer"


def _remarks(settings: ServingSettings, machine: Machine | None, left: int | None, *, gpu: bool) -> list[str]:
    remarks = []
    if machine and left is not None and settings.kv_space and left < settings.kv_space:
        remarks.append(f"VLLM_CPU_KVCACHE_SPACE asks for more than remains on {machine.board}")
    if not gpu and settings.kv_space is None:
        remarks.append("VLLM_CPU_KVCACHE_SPACE is not set: half of the memory is taken for it, as vLLM 0.15.1 does")
    if machine and not machine.measured:
        remarks.append(
            f"the memory that Linux sees on {machine.board} is not published; the estimate assumes 93 % of it"
        )
    if machine and machine.utilization is not None and machine.utilization < settings.utilization:
        remarks.append(
            f"--gpu-memory-utilization {settings.utilization:g} is more than is free on {machine.board} at the start: "
            + (
                f"set {machine.utilization:g} or less, for which the sum is made"
                if machine.utilization > 0
                else "none is"
            )
        )
    return remarks

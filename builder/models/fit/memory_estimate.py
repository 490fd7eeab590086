"""The records of a memory estimate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Basis = Literal["exact", "estimate", "setting"]
Verdict = Literal["fits", "fewer", "no", "refused", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """Layers with the same KV cache: `width` elements per token and layer, for all tokens or the last `window` ones."""

    count: int
    width: int
    what: str
    window: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The values of a model's configuration that its memory depends on.

    `longest` is the model's context length in tokens; `dtype` the type of its numbers (`bfloat16`); `quantised` the
    quantisation method of its weights, if any, and `algorithm` the one of a method with several. `kv_dtype` is the type
    of the KV cache that the model itself asks for. `has_cache` is false for encoders, which have no KV cache. `unknown`
    lists what the configuration lacks or jbuild cannot estimate.
    """

    model_type: str
    layers: tuple[Layers, ...]
    hidden: int
    intermediate: int
    vocabulary: int
    longest: int | None
    dtype: str
    quantised: str | None = None
    algorithm: str | None = None
    kv_dtype: str | None = None
    has_cache: bool = True
    tied: bool = False
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingSettings:
    """The server options that memory depends on. `utilization` is the server's share of the GPU's memory, 0 to 1."""

    dtype: str
    kv_dtype: str
    length: int
    sequences: int
    batched_tokens: int
    most_sequences: int
    block: int
    utilization: float
    hybrid: bool
    eager: bool
    kv_space: int | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryItem:
    """One item of the sum, in bytes, with its accuracy (`basis`) and its source (`why`)."""

    name: str
    size: int
    basis: Basis
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A board and the split of its memory; sizes in bytes.

    `share` is the server's part of `usable`, `outside` the memory that others need. `utilization` is the largest
    --gpu-memory-utilization that the server starts with.
    """

    board: str
    usable: int
    measured: bool
    outside: tuple[MemoryItem, ...]
    share: int
    utilization: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardFit:
    """The estimate for one board, or for no board in particular; sizes in bytes, lengths in tokens.

    `lines` is the server's memory without a KV cache, `left` the rest of its share, for the KV cache; `kv_token` and
    `kv_sequence` are the cache of one token and of one full-length sequence. `whole` is the number of full-length
    sequences that fit at once. `longest` is the largest max-model-len for the recipe's number of sequences,
    `longest_one` for one. Verdict `fewer`: the server starts, but not all sequences fit at full length; `refused`: it
    does not start, for the reasons in `refusals`.
    """

    machine: Machine | None
    settings: ServingSettings
    lines: tuple[MemoryItem, ...]
    kv_token: int
    kv_sequence: int
    left: int | None
    whole: float | None
    longest: int | None
    longest_one: int | None
    verdict: Verdict
    remarks: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def fixed(self) -> int:
        """The bytes that the server needs without a KV cache."""
        return sum(item.size for item in self.lines)

    def with_refusals(self, *refusals: str) -> BoardFit:
        """Return the estimate with more reasons why the server does not start there."""
        verdict: Verdict = "refused" if refusals and self.verdict != "no" else self.verdict
        return replace(self, refusals=(*self.refusals, *refusals), verdict=verdict)

    @property
    def lower_to(self) -> float | None:
        """The --gpu-memory-utilization to lower to so that the server starts; None if the setting is low enough."""
        most = self.machine.utilization if self.machine else None
        return most if most is not None and most < self.settings.utilization else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFit:
    """The estimates for the model that a cell serves, one per board."""

    cell: str
    model: str
    shape: Shape
    boards: tuple[BoardFit, ...]

    @property
    def fits_somewhere(self) -> bool:
        """Whether the model fits, or may fit, on one of the boards, and its server starts."""
        return any(board_fit.verdict not in ("no", "refused") for board_fit in self.boards)

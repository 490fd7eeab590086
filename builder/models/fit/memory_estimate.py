"""The records of an estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Basis = Literal["exact", "estimate", "setting"]
Verdict = Literal["fits", "fewer", "no", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """Layers whose KV cache is alike: `width` elements a token and layer, for all tokens or for a `window` of them."""

    count: int
    width: int
    what: str
    window: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What of a model's configuration decides memory.

    `longest` is the context that the model was made for, in tokens; `dtype` the type of its numbers (`bfloat16`);
    `quantised` the method, if the weights are. `unknown` says what of it could not be understood.
    """

    model_type: str
    layers: tuple[Layers, ...]
    hidden: int
    intermediate: int
    vocabulary: int
    longest: int | None
    dtype: str
    quantised: str | None = None
    tied: bool = False
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingSettings:
    """What of the server's options decides memory. `utilization` is the part of a GPU's memory that it takes."""

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
    """One summand, in bytes; `basis` says how far it can be trusted, `why` where it is from."""

    name: str
    size: int
    basis: Basis
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the server has to do with: a board, and how much of its memory is whose; sizes in bytes.

    `share` is what the server may use of `usable`, `outside` what lies beyond it. `utilization` is the largest
    --gpu-memory-utilization with which the server starts there.
    """

    board: str
    usable: int
    measured: bool
    outside: tuple[MemoryItem, ...]
    share: int
    utilization: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardFit:
    """The estimate for one board, or for none in particular; sizes in bytes, lengths in tokens.

    `lines` are what the server needs before the first token is kept, `left` is what remains for the KV cache of its
    share, `kv_token` and `kv_sequence` are the cache of one token and of one sequence of full length. `whole` is how
    many such sequences have room at once. `longest` is the largest max-model-len for the recipe's number of
    sequences, `longest_one` for one. `fewer`: the server starts, but not all sequences have room at full length.
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

    @property
    def fixed(self) -> int:
        """Bytes that the server needs before the first token is kept."""
        return sum(item.size for item in self.lines)

    @property
    def lower_to(self) -> float | None:
        """The --gpu-memory-utilization that it must be lowered to for the server to start, if it must be."""
        most = self.machine.utilization if self.machine else None
        return most if most is not None and most < self.settings.utilization else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFit:
    """The estimate for the model that a cell serves, one a board."""

    cell: str
    model: str
    shape: Shape
    boards: tuple[BoardFit, ...]

    @property
    def fits_somewhere(self) -> bool:
        """Whether there is a board, or none was asked about, that the model is not too large for."""
        return any(board_fit.verdict != "no" for board_fit in self.boards)

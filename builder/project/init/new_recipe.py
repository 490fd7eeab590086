"""The records of a new recipe: what was answered, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

NO_BOARD = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What somebody wants; None is left to be proposed. `board` is `none` for the CPU of any arm64 machine."""

    board: str
    name: str | None = None
    l4t: str | None = None
    vllm: str | None = None
    cuda: str | None = None
    python: str | None = None
    model: str | None = None
    registry: str | None = None

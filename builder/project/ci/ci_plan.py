"""The records of a plan for CI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixEntry:
    """One cell as one job of a matrix.

    `platform` is docker's (`linux/arm64`). `runner` is the label of the runner that builds; `smoke_runner` that of a
    board of the recipe's own, empty where it names none.
    """

    recipe: str
    cell: str
    name: str
    architecture: str
    platform: str
    runner: str
    smoke_runner: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A cell that gets no job, and why."""

    recipe: str
    cell: str
    status: Literal["impossible", "unchanged"]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CiPlan:
    """The jobs, and the cells that get none."""

    include: tuple[MatrixEntry, ...]
    skipped: tuple[Skipped, ...] = ()

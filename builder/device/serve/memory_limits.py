"""What a board's memory means for a cell's server: limits, settings, and what to say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.lock.recipe_models import locked_models
from builder.models.fit.cell_fit import fit_cell
from builder.models.fit.fit_defaults import overheads

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.jetson.boards import Board
    from builder.model.locks import Job
    from builder.model.recipes import Pairs
    from builder.models.fit.memory_estimate import BoardFit

_MIB = 1 << 20
_UTILIZATION = "JBUILD_GPU_MEMORY_UTILIZATION"


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The estimate for a board, or why there is none, and the environment that the server needs there."""

    fit: BoardFit | None
    unknown: str | None = None
    environment: Pairs = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be known, a line each; empty where everything fits."""
        if self.fit is None:
            return (f"what its model needs is not known: {self.unknown}",)
        remarks = [f"it starts with {name}={value} only" for name, value in self.environment]
        if self.fit.verdict == "fewer":
            remarks.append("not all sequences that it is set to have room at full length")
        return tuple(remarks)


def memory_of(job: Job, board: Board, session: Session) -> Memory:
    """Return the estimate of what a cell's server needs, against what a board has."""
    try:
        found = fit_cell(job, locked_models(job, session), session, (board.name,))
    except ModelError as error:
        return Memory(fit=None, unknown=error.message)
    (fit,) = found.boards
    machine = fit.machine
    most = machine.utilization if machine else None
    too_much = most is not None and 0 < most < fit.settings.utilization
    return Memory(fit=fit, environment=((_UTILIZATION, f"{most:g}"),) if too_much else ())


def limit(board: Board, *, gpu: bool) -> int:
    """Return the bytes that a container may use on a board: all but what the system needs, whole MiB."""
    memory_kind = "system" if gpu else "cpu"
    system = sum(row.mib for row in overheads() if row.of == memory_kind and row.name == "operating system")
    return (board.usable // _MIB - system) * _MIB

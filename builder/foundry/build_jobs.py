"""How many units a build compiles at once: as many as memory and processors allow."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.host.memory import available_memory

if TYPE_CHECKING:
    from builder.model.builds import BuildOptions, LockedBuild

# The memory of one compilation: 4.99 GB were measured for the largest unit of flash-attn 2.8.3.
_CUDA_UNIT = 5_000_000_000
_UNIT = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What a machine can still give: processors, and bytes of memory."""

    processors: int
    memory: int


def own_capacity() -> Capacity:
    """Return what this machine can give."""
    return Capacity(processors=os.cpu_count() or 1, memory=available_memory())


def jobs_of(build: LockedBuild, options: BuildOptions, capacity: Capacity) -> int:
    """Return the number of parallel compilations."""
    if options.jobs is not None:
        return max(1, options.jobs)
    unit = _CUDA_UNIT if build.target.cuda else _UNIT
    return max(1, min(capacity.memory // unit, capacity.processors))

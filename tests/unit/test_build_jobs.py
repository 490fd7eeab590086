"""How many units are compiled at once, by memory, processors and the user."""

from __future__ import annotations

import pytest
from build_factory import CPU, make_build

from builder.foundry.build_jobs import Capacity, jobs_of
from builder.model.builds import BuildOptions

GB = 1_000_000_000
CUDA, PLAIN = make_build(), make_build(target=CPU)


@pytest.mark.parametrize(
    ("build", "memory", "processors", "jobs"),
    [
        (CUDA, 24 * GB, 16, 4),
        (CUDA, 64 * GB, 8, 8),
        (PLAIN, 24 * GB, 32, 24),
        (CUDA, 2 * GB, 16, 1),
        # The kernel does not tell.
        (PLAIN, 0, 16, 1),
    ],
)
def test_memory_and_processors_decide(build: object, memory: int, processors: int, jobs: int) -> None:
    assert jobs_of(build, BuildOptions(), Capacity(processors=processors, memory=memory)) == jobs  # type: ignore[arg-type]


def test_the_user_decides_otherwise() -> None:
    assert jobs_of(CUDA, BuildOptions(jobs=7), Capacity(processors=1, memory=0)) == 7

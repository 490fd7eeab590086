"""Percentiles and steps from single answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.bench.model import Percentiles, Step

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class Sample:
    """One answer: seconds after its question at which each of its parts came, its tokens, or why there is none."""

    times_s: list[float] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    failure: str | None = None


def percentiles(values_s: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of some seconds, between ranks in proportion (as NumPy does by default); None of none."""
    if not values_s:
        return None
    ordered = sorted(values_s)
    return Percentiles(p50=_at(ordered, 50), p95=_at(ordered, 95), p99=_at(ordered, 99))


def step_of(samples: Sequence[Sample], concurrency: int, seconds: float) -> Step:
    """Return what some answers tell that came within some seconds."""
    good = [sample for sample in samples if sample.failure is None]
    tokens = sum(sample.output_tokens for sample in good)
    gaps = [later - earlier for s in good for earlier, later in zip(s.times_s, s.times_s[1:], strict=False)]
    return Step(
        concurrency=concurrency,
        answered=len(good),
        failed=len(samples) - len(good),
        seconds=round(seconds, 3),
        input_tokens=sum(sample.input_tokens for sample in good),
        output_tokens=tokens,
        requests_per_s=round(len(good) / seconds, 4),
        tokens_per_s=round(tokens / seconds, 3),
        first_token_ms=percentiles([sample.times_s[0] for sample in good if sample.times_s]),
        between_tokens_ms=percentiles(gaps),
        failures=tuple(dict.fromkeys(sample.failure for sample in samples if sample.failure)),
    )


def _at(ordered: list[float], percent: int) -> float:
    place = (len(ordered) - 1) * percent / 100
    below, part = math.floor(place), place % 1
    above = min(below + 1, len(ordered) - 1)
    return round(1000 * (ordered[below] + (ordered[above] - ordered[below]) * part), 3)

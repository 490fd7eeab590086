"""Whether an image is worse than the last one of its cell that passed, by more than the recipe allows."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.recipe.model import Bounds
    from builder.smoke.model import Verdict

# Differences below these mean nothing, however large a part they are: seconds, tokens/s, bytes.
_NOISE = {"start": 2.0, "first_token": 0.2, "tokens": 0.5, "memory": 64e6, "image": 1e6}


def exceeded(bounds: Bounds, now: Verdict, before: Verdict) -> tuple[str, ...]:
    """Return every measure that is worse than before by more than its bound, in words."""
    return tuple(_exceeded(bounds, now, before))


def _exceeded(bounds: Bounds, now: Verdict, before: Verdict) -> Iterator[str]:
    for name, bound, measure, unit in (
        ("start", bounds.slower_start, lambda verdict: verdict.ready_s, "{:.1f} s to ready"),
        ("first_token", bounds.later_first_token, _first_token, "{:.2f} s to the first token"),
        ("tokens", bounds.fewer_tokens, _tokens, "{:.1f} tokens/s"),
        ("memory", bounds.more_memory, lambda verdict: _float(verdict.peak_memory_bytes), "{:.0f} bytes of memory"),
        ("image", bounds.larger_image, lambda verdict: _float(verdict.image_bytes), "an image of {:.0f} bytes"),
    ):
        new, old = measure(now), measure(before)
        if bound is None or not new or not old:
            continue
        # More tokens are better, more of everything else is worse.
        worse = old - new if name == "tokens" else new - old
        if worse > old * bound and worse > _NOISE[name]:
            yield f"{unit.format(new)}, the last time {unit.format(old)}: more than {bound:.0%} worse"


def _first_token(verdict: Verdict) -> float | None:
    return _median(verdict, lambda answer: answer.first_token_s)


def _tokens(verdict: Verdict) -> float | None:
    return _median(verdict, lambda answer: answer.tokens_per_s)


def _median(verdict: Verdict, of: Callable[..., float | None]) -> float | None:
    found = [value for answer in verdict.answers if (value := of(answer)) is not None]
    return median(found) if found else None


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)

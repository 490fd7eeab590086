"""A measurement as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.tomldoc import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.bench.model import Bench, Percentiles, Step

_HEADINGS = ("at once", "answered", "tokens/s", "requests/s", "first token ms", "between tokens ms")


def table(found: Bench, columns: Callable[[Sequence[str], Sequence[Sequence[str]]], str]) -> str:
    """Return a measurement as text; latencies are p50 / p95 / p99."""
    where = f"level {found.level}" if found.level else "at an address"
    ready = f", ready after {found.ready_s:.0f} s" if found.ready_s is not None else ""
    load = found.load
    lines = [
        f"{found.model}, {where}{ready}: {found.subject}",
        f"{load.prompts} prompts of {load.input_length}, {load.output_tokens} tokens each, by {found.client}",
        "",
        columns(_HEADINGS, [_row(step) for step in found.steps]),
    ]
    lines += [f"failed at {step.concurrency}: {shown(why)}" for step in found.steps for why in step.failures]
    return "\n".join([*lines, *(f"note: {remark}" for remark in found.remarks)])


def _row(step: Step) -> tuple[str, ...]:
    answered = str(step.answered) if not step.failed else f"{step.answered}, {step.failed} failed"
    rates = (f"{step.tokens_per_s:.1f}", f"{step.requests_per_s:.2f}")
    return (str(step.concurrency), answered, *rates, _ms(step.first_token_ms), _ms(step.between_tokens_ms))


def _ms(found: Percentiles | None) -> str:
    return f"{found.p50:.0f} / {found.p95:.0f} / {found.p99:.0f}" if found else "-"

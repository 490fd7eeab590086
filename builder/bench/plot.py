"""A measurement as a drawing: throughput and latencies over the concurrency. Plain SVG, readable in the dark too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from builder.bench.model import Bench, Percentiles, Step

_WIDTH, _HEIGHT, _GAP = 300, 200, 70
_TOP, _LEFT = 96, 64
_TICKS = 4
_STYLE = """\
  text { font: 12px system-ui, sans-serif; fill: #1b1f24 }
  .title { font-size: 15px; font-weight: 600 } .small { font-size: 11px; fill: #59636e }
  .grid { stroke: #d1d9e0; stroke-width: 1 } .line { fill: none; stroke-width: 2 }
  .a { stroke: #0969da } .b { stroke: #bc4c00 } .c { stroke: #8250df }
  .line.b { stroke-dasharray: 6 3 } .line.c { stroke-dasharray: 2 3 }
  circle { stroke-width: 2; fill: #ffffff } .back { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d } .back, circle { fill: #0d1117 }
    .a { stroke: #4493f8 } .b { stroke: #f0883e } .c { stroke: #ab7df8 }
  }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One line of a chart: its name, its style, and a value for each step, None where there is none."""

    name: str
    style: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chart:
    """One chart: what it shows, in which unit."""

    title: str
    unit: str
    lines: tuple[_Line, ...]

    @property
    def highest(self) -> float:
        """The top of its scale: a round number."""
        most = max((value for line in self.lines for value in line.values if value is not None), default=0.0)
        return _round_up(most) if most > 0 else 1.0


def svg(bench: Bench) -> str:
    """Return a drawing of a measurement: three charts over the concurrency."""
    charts = (
        _Chart(
            title="throughput",
            unit="tokens/s",
            lines=(_Line(name="output", style="a", values=tuple(step.tokens_per_s for step in bench.steps)),),
        ),
        _latencies("time to first token", bench.steps, lambda step: step.first_token_ms),
        _latencies("between tokens", bench.steps, lambda step: step.between_tokens_ms),
    )
    width = _LEFT + len(charts) * (_WIDTH + _GAP)
    height = _TOP + _HEIGHT + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(f'{bench.model}: throughput and latency')}</title>",
        f"<style>\n{_STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}"/>',
        _text(_LEFT, 28, f"{bench.model} at {_level(bench)}, {bench.when[:10]}", "title"),
        _text(_LEFT, 48, f"{bench.subject}; {_load(bench)}", "small"),
    ]
    concurrencies = [step.concurrency for step in bench.steps]
    for number, chart in enumerate(charts):
        parts += _drawn(chart, concurrencies, _LEFT + number * (_WIDTH + _GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _latencies(title: str, steps: Sequence[Step], get: Callable[[Step], Percentiles | None]) -> _Chart:
    found = [get(step) for step in steps]
    lines = (
        _Line(name="p50", style="a", values=tuple(each.p50 if each else None for each in found)),
        _Line(name="p95", style="b", values=tuple(each.p95 if each else None for each in found)),
        _Line(name="p99", style="c", values=tuple(each.p99 if each else None for each in found)),
    )
    return _Chart(title=title, unit="ms", lines=lines)


def _drawn(chart: _Chart, concurrencies: Sequence[int], left: float) -> Iterator[str]:
    yield _text(left, _TOP - 16, f"{chart.title}, {chart.unit}")
    bottom = _TOP + _HEIGHT
    for tick in range(_TICKS + 1):
        value = chart.highest * tick / _TICKS
        y = bottom - _HEIGHT * tick / _TICKS
        yield f'<line class="grid" x1="{left}" x2="{left + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(left - 8, y + 4, f"{value:g}", "small", anchor="end")
    xs = [left + _WIDTH * (number + 0.5) / len(concurrencies) for number in range(len(concurrencies))]
    for x, concurrency in zip(xs, concurrencies, strict=True):
        yield _text(x, bottom + 18, str(concurrency), "small", anchor="middle")
    yield _text(left + _WIDTH / 2, bottom + 36, "at once", "small", anchor="middle")
    for number, line in enumerate(chart.lines):
        places = [
            (x, bottom - _HEIGHT * value / chart.highest)
            for x, value in zip(xs, line.values, strict=True)
            if value is not None
        ]
        yield f'<polyline class="line {line.style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
        for x, y in places:
            yield f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
        if len(chart.lines) > 1:
            x = left + _WIDTH - 150 + 52 * number
            yield f'<line class="line {line.style}" x1="{x}" x2="{x + 18}" y1="{_TOP - 20}" y2="{_TOP - 20}"/>'
            yield _text(x + 22, _TOP - 16, line.name, "small")


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    of = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of}>{escape(text)}</text>'


def _level(bench: Bench) -> str:
    return f"level {bench.level}" if bench.level else "an address"


def _load(bench: Bench) -> str:
    load = bench.load
    return f"{load.prompts} prompts of {load.input_length}, {load.output_tokens} tokens each, by {bench.client}"


def _round_up(value: float) -> float:
    """Return the next of some round numbers times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next((times * power for times in (1, 2, 3, 4, 5, 6, 8) if times * power >= value), 10 * power)

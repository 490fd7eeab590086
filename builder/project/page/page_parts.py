"""Parts of a cell's view: layers, audit, charts of past runs, and the difference from the published image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.image.oci.layout import read_config
from builder.model.audits import SEVERITIES
from builder.project.diff.difference import ComparedSide, compare
from builder.project.diff.image_contents import ImageContents, layers_of
from builder.project.diff.subject import fields_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.model.audits import Audit, Finding
    from builder.model.images import Image
    from builder.model.locks import Lock
    from builder.pipeline.history import HistoryRun, LastPublication
    from builder.project.diff.difference import Difference

_MOST_FINDINGS = 100
_CHARTED = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure over past runs, oldest first, as columns of these heights in percent of the highest."""

    title: str
    heights: tuple[int, ...]
    last: str
    range: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditView:
    """An audit: its findings, the gravest first, the number of further ones, and the GPU code by SM."""

    findings: tuple[Finding, ...]
    more: int
    tally: str
    gpu: tuple[str, ...]
    assumed: str | None


def contents_of(image: Image, layout: Path) -> ImageContents:
    """Return an image, with the names of its layers if the cache still has its configuration."""
    try:
        return ImageContents(image=image, layers=layers_of(image, read_config(layout, image)))
    except (JbuildError, ValueError, KeyError, TypeError, AttributeError):
        # A prune may have removed it; the record has the sizes.
        return ImageContents(image=image, layers=layers_of(image, {}))


def audit_view(audit: Audit) -> AuditView:
    """Return an audit, the gravest findings first and waived ones last."""
    order = sorted(audit.findings, key=lambda f: (f.waived is not None, SEVERITIES.index(f.severity), f.wheel, f.file))
    gpu = []
    for sm, libraries in audit.gpu.items():
        kinds = Counter(verdict.verdict for verdict in libraries.values())
        if kinds:
            gpu.append(f"SM {sm}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return AuditView(
        findings=tuple(order[:_MOST_FINDINGS]),
        more=max(0, len(order) - _MOST_FINDINGS),
        tally=str(audit.counts),
        gpu=tuple(gpu),
        assumed=audit.assumed,
    )


def difference(lock: Lock, image: Image | None, published: LastPublication | None, layout: Path) -> Difference | None:
    """Return the difference from the image that this project published last, or None without one."""
    if published is None:
        return None
    return compare(_side(published.lock, published.image, layout), _side(lock, image, layout))


def _side(lock: Lock, image: Image | None, layout: Path) -> ComparedSide:
    fields = contents_of(image, layout).fields if image else {}
    return ComparedSide(name=f"{lock.recipe}/{lock.cell}", kind="cell", **fields, **fields_of(lock))


def charts_of(runs: Sequence[HistoryRun]) -> tuple[Chart, ...]:
    """Return charts of the figures with two or more values in a cell's past runs."""
    tested = [
        run for run in runs if run.verdict and (run.ran("smoke") or (run.failure and run.failure.stage == "smoke"))
    ]
    figures = (
        ("server ready after", "s", [run.verdict.ready_s for run in tested if run.verdict]),
        ("answer, tokens a second", "tokens/s", [_speed(run) for run in tested]),
        ("image", "MB", [run.size / 1e6 for run in runs if run.size and run.ran("build")]),
        ("whole run", "s", [run.seconds for run in tested if run.failure is None]),
    )
    series = [(title, unit, [v for v in values if v is not None][-_CHARTED:]) for title, unit, values in figures]
    return tuple(
        Chart(
            title=title,
            heights=tuple(round(100 * value / (max(values) or 1.0)) for value in values),
            last=f"{short(values[-1])} {unit}",
            range=f"{short(min(values))} to {short(max(values))} {unit} in {len(values)} runs",
        )
        for title, unit, values in series
        if len(values) > 1
    )


def _speed(run: HistoryRun) -> float | None:
    answers = run.verdict.answers if run.verdict else ()
    return next((answer.tokens_per_s for answer in answers if answer.tokens_per_s is not None), None)


def short(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"  # noqa: PLR2004

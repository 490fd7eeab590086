"""Parts of a cell's view: layers, audit, charts of past runs, and the difference from the published image."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.model.audits import SEVERITIES
from builder.project.diff.comparison import compare
from builder.project.diff.difference import ComparedSide, Layer
from builder.project.diff.image_contents import of_layout
from builder.project.diff.subject import fields_of
from builder.project.page.page_model import AuditView, Chart, ImageView, LayerBar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.model.audits import Audit
    from builder.model.images import Image
    from builder.model.locks import Lock
    from builder.pipeline.history import HistoryRun, LastPublication
    from builder.project.diff.difference import Difference

_MOST_FINDINGS = 100
_CHARTED = 24


def layers_of(image: Image, layout: Path) -> tuple[Layer, ...]:
    """Return an image's layers, with the names from its history if it is in the cache."""
    try:
        return of_layout(image.digest, image.digest, layout).layers
    except (JbuildError, OSError, ValueError, KeyError, TypeError):
        # A prune may have removed the image; the record has the sizes.
        named = enumerate(image.layers, 1)
        return tuple(Layer(name=f"layer {n}", digest=layer.digest, size=layer.size) for n, layer in named)


def image_view(image: Image, layers: Sequence[Layer]) -> ImageView:
    """Return an image with the chart of its layers, lowest first."""
    largest = max((layer.size or 0 for layer in layers), default=0) or 1
    bars = tuple(
        LayerBar(name=layer.name, size=layer.size or 0, share=round(100 * (layer.size or 0) / largest, 1))
        for layer in layers
    )
    return ImageView(digest=image.digest, size=image.size, layers=bars)


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
    return compare(_subject(published.lock, published.image, layout), _subject(lock, image, layout))


def _subject(lock: Lock, image: Image | None, layout: Path) -> ComparedSide:
    name = f"{lock.recipe}/{lock.cell}"
    if image is None:
        return ComparedSide(name=name, kind="cell", **fields_of(lock))
    blobs = tuple({blob.digest: blob.size for blob in (image.config, *image.layers)}.items())
    layers = layers_of(image, layout)
    return ComparedSide(name=name, kind="cell", layers=layers, blobs=blobs, digest=image.digest, **fields_of(lock))


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
    return tuple(_chart(title, values, unit) for title, unit, values in series if len(values) > 1)


def _speed(run: HistoryRun) -> float | None:
    answers = run.verdict.answers if run.verdict else ()
    return next((answer.tokens_per_s for answer in answers if answer.tokens_per_s is not None), None)


def _chart(title: str, values: Sequence[float], unit: str) -> Chart:
    top = max(values) or 1.0
    return Chart(
        title=title,
        heights=tuple(round(100 * value / top) for value in values),
        last=f"{short(values[-1])} {unit}",
        range=f"{short(min(values))} to {short(max(values))} {unit} in {len(values)} runs",
    )


def short(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"  # noqa: PLR2004

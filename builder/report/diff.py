"""A comparison, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.diff.model import Change, Changes, Difference, Layer, LayerChanges


def text(found: Difference) -> str:
    """Return the lines of a comparison."""
    lines = [f"from {found.before.name}", f"to   {found.after.name}"]
    if found.identical:
        lines.append("nothing is different")
    if found.base:
        lines.append(f"base: {found.base.before} → {found.base.after}")
    for title, changes in (("packages", found.packages), ("models", found.models)):
        if changes:
            lines += _changes(title, changes)
    if found.layers:
        lines += _layers(found.layers)
    if found.pull is not None and found.whole is not None:
        lines.append(f"a device that has the first pulls {megabytes(found.pull)} of {megabytes(found.whole)}")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def megabytes(size: int) -> str:
    """Return bytes as people compare them."""
    return f"{size / 1e6:.1f} MB"


def _changes(title: str, changes: Changes) -> Iterator[str]:
    yield f"{title}: {len(changes.changed)} different, {changes.same} the same"
    yield from (f"  {_change(change)}" for change in changes.changed)


def _change(change: Change) -> str:
    size = f" ({megabytes(change.size)})" if change.size is not None else ""
    if change.before is None:
        return f"+ {change.name} {change.after}{size}"
    if change.after is None:
        return f"- {change.name} {change.before}"
    if change.rebuilt:
        return f"~ {change.name} {change.after}: the same version, other files{size}"
    return f"~ {change.name} {change.before} → {change.after}{size}"


def _layers(layers: LayerChanges) -> Iterator[str]:
    kept = f"{len(layers.kept)} the same" + (f" ({_sum(layers.kept)})" if _is_known(layers.kept) else "")
    yield f"layers: {len(layers.added)} new, {len(layers.removed)} gone, {kept}"
    for sign, those in (("-", layers.removed), ("+", layers.added)):
        yield from (f"  {sign} {layer.name}{_size(layer)}" for layer in those)


def _size(layer: Layer) -> str:
    return f" ({megabytes(layer.size)})" if layer.size is not None else ""


def _is_known(layers: tuple[Layer, ...]) -> bool:
    return bool(layers) and all(layer.size is not None for layer in layers)


def _sum(layers: tuple[Layer, ...]) -> str:
    return megabytes(sum(layer.size or 0 for layer in layers))

"""`jbuild diff`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import click

from builder.cli.cell_selection import session_verb
from builder.cli.results import show
from builder.cli.verb_options import complete_recipes
from builder.host import records
from builder.host.session import Session
from builder.host.units import megabytes
from builder.project.diff.difference import Changes, Difference, Layer, LayerChanges, PartChange, SlimChange, compare
from builder.project.diff.subject import subject


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffResult:
    """What changed between two locks, cells or images; sizes in bytes."""

    difference: Difference = field(metadata=records.FLAT)
    identical: bool


@session_verb(
    "diff",
    click.argument("before", metavar="A", shell_complete=complete_recipes),
    click.argument("after", metavar="B", shell_complete=complete_recipes),
    click.option(
        "--architecture",
        type=click.Choice(("arm64", "amd64")),
        default="arm64",
        show_default=True,
        help="Architecture to compare in multi-platform images.",
    ),
)
def command(session: Session, before: str, after: str, architecture: str) -> None:
    """Show what changed from A to B: packages, models, layers, and the download for a device that has A.

    A and B are lock files, cells (RECIPE/CELL, or RECIPE if it has one cell), digests of built images, or images in a
    registry (HOST/NAME:TAG). No engine is needed.
    """
    with session.console.task(f"comparing {before} with {after}", unit="images"):
        difference = compare(subject(before, session, architecture), subject(after, session, architecture))
    show(DiffResult(difference=difference, identical=difference.identical), text(difference), session.console)


def text(difference: Difference) -> str:
    """Return a comparison as text."""
    lines = [f"from {difference.before.name}", f"to   {difference.after.name}"]
    if difference.identical:
        lines.append("nothing is different")
    if difference.base:
        lines.append(f"base: {difference.base.before} → {difference.base.after}")
    for title, changes in (("packages", difference.packages), ("models", difference.models)):
        if changes:
            lines += _changes(title, changes)
    if difference.slim:
        lines += _slim(difference.slim)
    if difference.layers:
        lines += _layers(difference.layers)
    if difference.pull is not None and difference.whole is not None:
        lines.append(f"a device that has the first pulls {megabytes(difference.pull)} of {megabytes(difference.whole)}")
    return "\n".join([*lines, *(f"note: {note}" for note in difference.notes)])


def _changes(title: str, changes: Changes) -> Iterator[str]:
    yield f"{title}: {len(changes.changed)} different, {changes.same} the same"
    yield from (f"  {_change(change)}" for change in changes.changed)


def _change(change: PartChange) -> str:
    size = _size(change)
    if change.before is None:
        return f"+ {change.name} {change.after}{size}"
    if change.after is None:
        return f"- {change.name} {change.before}"
    if change.rebuilt:
        return f"~ {change.name} {change.after}: the same version, other files{size}"
    return f"~ {change.name} {change.before} → {change.after}{size}"


def _slim(changes: Sequence[SlimChange]) -> Iterator[str]:
    yield f"GPU code: {len(changes)} package{'' if len(changes) == 1 else 's'} with different code"
    for change in changes:
        before, after = (
            f"all code, {megabytes(change.size)}" if size is None else f"slimmed, {megabytes(size)}"
            for size in (change.before, change.after)
        )
        yield f"  ~ {change.name}: {before} → {after}"


def _layers(layers: LayerChanges) -> Iterator[str]:
    sizes = [layer.size for layer in layers.kept if layer.size is not None]
    kept = f" ({megabytes(sum(sizes))})" if sizes and len(sizes) == len(layers.kept) else ""
    yield f"layers: {len(layers.added)} new, {len(layers.removed)} gone, {len(layers.kept)} the same{kept}"
    for sign, changed in (("-", layers.removed), ("+", layers.added)):
        yield from (f"  {sign} {layer.name}{_size(layer)}" for layer in changed)


def _size(part: Layer | PartChange) -> str:
    return f" ({megabytes(part.size)})" if part.size is not None else ""

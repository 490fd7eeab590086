"""Compares two sides of a difference: a pure function of their records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.project.diff.difference import Changes, Difference, LayerChanges, PartChange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.project.diff.difference import ComparedPart, ComparedSide, Layer


def compare(before: ComparedSide, after: ComparedSide) -> Difference:
    """Return the difference between two sides."""
    return Difference(
        before=before,
        after=after,
        packages=_packages(before, after),
        models=_changes(before.models, after.models),
        base=_base(before.base, after.base),
        layers=_layers(before.layers, after.layers),
        pull=_pull(before, after),
        whole=sum(size for _, size in after.blobs) if after.blobs is not None else None,
        notes=tuple(_notes(before, after)),
    )


def _packages(before: ComparedSide, after: ComparedSide) -> Changes | None:
    one, two = before.packages, after.packages
    if one is None or two is None:
        return None
    if before.partial or after.partial:
        # Labels have the versions of a few packages, without hashes: only those are comparable.
        named, other_named = _by_label(one), _by_label(two)
        both = set(named) & set(other_named)
        return _changes([named[name] for name in both], [other_named[name] for name in both])
    return _changes(one, two)


def _by_label(packages: Sequence[ComparedPart]) -> dict[str, ComparedPart]:
    """Return packages by their names in labels, identified by their versions alone."""
    by_name = {package.name.removesuffix("-cpu"): package for package in packages}
    return {name: replace(package, name=name, content=package.version, size=None) for name, package in by_name.items()}


def _changes(before: Sequence[ComparedPart] | None, after: Sequence[ComparedPart] | None) -> Changes | None:
    if before is None or after is None:
        return None
    one, two = ({part.name: part for part in parts} for parts in (before, after))
    changed, same = [], 0
    for name in sorted({*one, *two}):
        old, new = one.get(name), two.get(name)
        if old and new and old.content == new.content:
            same += 1
            continue
        size = new.size if new else None
        versions = (old.version if old else None, new.version if new else None)
        changed.append(PartChange(name=name, before=versions[0], after=versions[1], size=size))
    return Changes(changed=tuple(changed), same=same)


def _base(before: ComparedPart | None, after: ComparedPart | None) -> PartChange | None:
    if before is None or after is None or before.content == after.content:
        return None
    return PartChange(name=after.name, before=before.version, after=after.version)


def _layers(before: Sequence[Layer] | None, after: Sequence[Layer] | None) -> LayerChanges | None:
    if before is None or after is None:
        return None
    built = all(layer.digest for layer in (*before, *after))
    one, two = ({_key(layer, built=built): layer for layer in layers} for layers in (before, after))
    return LayerChanges(
        removed=tuple(layer for key, layer in one.items() if key not in two),
        added=tuple(layer for key, layer in two.items() if key not in one),
        kept=tuple(layer for key, layer in two.items() if key in one),
    )


def _key(layer: Layer, *, built: bool) -> str:
    return layer.digest if built and layer.digest else layer.name


def _pull(before: ComparedSide, after: ComparedSide) -> int | None:
    if before.blobs is None or after.blobs is None:
        return None
    present = {digest for digest, _ in before.blobs}
    return sum(size for digest, size in after.blobs if digest not in present)


def _notes(before: ComparedSide, after: ComparedSide) -> list[str]:
    notes = []
    for side in (before, after):
        if side.packages is None or side.partial:
            notes.append(
                f"the lock of image {side.name} is not in this project: only the packages of its labels are compared"
            )
        if side.blobs is None:
            notes.append(f"{side.name} has no built image on this machine: the size of the pull is unknown")
    return notes

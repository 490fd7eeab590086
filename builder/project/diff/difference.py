"""Compares two sides of a difference: a pure function of their records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from builder.model.images import SlimSize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind = Literal["lock", "cell", "image"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedPart:
    """A package, model or base image: `version` for readers, `content` identifies its bytes.

    `size` is its download in bytes, if known.
    """

    name: str
    version: str
    content: str
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer: `name` is its folder in the plan; `digest` and `size` (bytes, compressed) are set once it is built."""

    name: str
    digest: str | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSide:
    """One side of a difference. None means unknown: an image has its layers, but not all of its packages.

    `slimmed` are the wheels without GPU code for other GPUs. `blobs` are digest and size of all blobs that a device
    pulls. With `partial`, packages are only the few of an image's labels.
    """

    name: str
    kind: Kind
    packages: tuple[ComparedPart, ...] | None = None
    partial: bool = False
    models: tuple[ComparedPart, ...] | None = None
    base: ComparedPart | None = None
    layers: tuple[Layer, ...] | None = None
    slimmed: tuple[SlimSize, ...] | None = None
    blobs: tuple[tuple[str, int], ...] | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PartChange:
    """A part on one side only (the other is None), or different on each side.

    `rebuilt`: the version is the same, the bytes are not.
    """

    name: str
    before: str | None
    after: str | None
    size: int | None = None

    @property
    def rebuilt(self) -> bool:
        """Whether the same version has other bytes."""
        return self.before is not None and self.before == self.after


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """The changes in one kind of parts, and the number of equal ones."""

    changed: tuple[PartChange, ...]
    same: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimChange:
    """A wheel that is slimmed on one side only (the other is None), or for other GPUs; `size` is the whole size.

    `before` and `after` are the bytes of its changed libraries without the code that went.
    """

    name: str
    before: int | None
    after: int | None
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChanges:
    """Layers on one side only, and layers on both; with sizes if both sides are built."""

    removed: tuple[Layer, ...]
    added: tuple[Layer, ...]
    kept: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The difference between two sides. `pull` is the download of a device from `before` to `after`, in bytes."""

    before: ComparedSide
    after: ComparedSide
    packages: Changes | None
    models: Changes | None
    base: PartChange | None
    layers: LayerChanges | None
    slim: tuple[SlimChange, ...]
    pull: int | None
    whole: int | None
    notes: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether the known parts of both sides are the same."""
        changes = [change for change in (self.packages, self.models) if change]
        layers = self.layers is not None and bool(self.layers.removed or self.layers.added)
        return not (any(change.changed for change in changes) or self.base or layers or self.slim or self.pull)


def compare(before: ComparedSide, after: ComparedSide) -> Difference:
    """Return the difference between two sides."""
    return Difference(
        before=before,
        after=after,
        packages=_packages(before, after),
        models=_changes(before.models, after.models),
        base=_base(before.base, after.base),
        layers=_layers(before.layers, after.layers),
        slim=_slim(before.slimmed, after.slimmed),
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
    same = {name for name in one.keys() & two.keys() if one[name].content == two[name].content}
    changed = [(name, one.get(name), two.get(name)) for name in sorted({*one, *two} - same)]
    return Changes(
        changed=tuple(
            PartChange(
                name=name,
                before=old.version if old else None,
                after=new.version if new else None,
                size=new.size if new else None,
            )
            for name, old, new in changed
        ),
        same=len(same),
    )


def _base(before: ComparedPart | None, after: ComparedPart | None) -> PartChange | None:
    if before is None or after is None or before.content == after.content:
        return None
    return PartChange(name=after.name, before=before.version, after=after.version)


def _layers(before: Sequence[Layer] | None, after: Sequence[Layer] | None) -> LayerChanges | None:
    if before is None or after is None:
        return None
    built = all(layer.digest for layer in (*before, *after))
    one, two = ({layer.digest if built else layer.name: layer for layer in layers} for layers in (before, after))
    return LayerChanges(
        removed=tuple(layer for key, layer in one.items() if key not in two),
        added=tuple(layer for key, layer in two.items() if key not in one),
        kept=tuple(layer for key, layer in two.items() if key in one),
    )


def _slim(before: Sequence[SlimSize] | None, after: Sequence[SlimSize] | None) -> tuple[SlimChange, ...]:
    if before is None or after is None:
        return ()
    one, two = ({size.name: size for size in sizes} for sizes in (before, after))
    changed = [(name, one.get(name), two.get(name)) for name in sorted({*one, *two}) if one.get(name) != two.get(name)]
    return tuple(
        SlimChange(
            name=name,
            before=old.after if old else None,
            after=new.after if new else None,
            size=max(size.before for size in (old, new) if size),
        )
        for name, old, new in changed
    )


def _pull(before: ComparedSide, after: ComparedSide) -> int | None:
    if before.blobs is None or after.blobs is None:
        return None
    present = {digest for digest, _ in before.blobs}
    return sum(size for digest, size in after.blobs if digest not in present)


def _notes(before: ComparedSide, after: ComparedSide) -> Iterator[str]:
    for side in (before, after):
        if side.packages is None or side.partial:
            yield f"the lock of image {side.name} is not in this project: only the packages of its labels are compared"
        if side.blobs is None:
            yield f"{side.name} has no built image on this machine: the size of the pull is unknown"

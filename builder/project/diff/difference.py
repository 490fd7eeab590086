"""The records of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

    `blobs` are digest and size of all blobs that a device pulls. With `partial`, packages are only the few of an
    image's labels.
    """

    name: str
    kind: Kind
    packages: tuple[ComparedPart, ...] | None = None
    partial: bool = False
    models: tuple[ComparedPart, ...] | None = None
    base: ComparedPart | None = None
    layers: tuple[Layer, ...] | None = None
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
    pull: int | None
    whole: int | None
    notes: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether the known parts of both sides are the same."""
        changes = [change for change in (self.packages, self.models) if change]
        layers = self.layers is not None and bool(self.layers.removed or self.layers.added)
        return not (any(change.changed for change in changes) or self.base or layers or self.pull)

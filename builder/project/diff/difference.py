"""The records of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["lock", "cell", "image"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedPart:
    """A package, model or base image: `version` as people say it, `content` what changes when its bytes do.

    `size` is what is fetched for it, in bytes, where that is known.
    """

    name: str
    version: str
    content: str
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer: `name` is the folder that it was made from, `digest` and `size` (bytes, compressed) a built one's."""

    name: str
    digest: str | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSide:
    """One side. None stands for what it does not tell: an image knows its layers, but not all of its packages.

    `blobs` are digest and size of everything that a device pulls. With `partial`, packages are only the few that an
    image's labels name.
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
    """A part that is only on one side (the other is None), or another one on each.

    `rebuilt`: the version is the same, the bytes are not.
    """

    name: str
    before: str | None
    after: str | None
    size: int | None = None

    @property
    def rebuilt(self) -> bool:
        """Whether other bytes go under the same version."""
        return self.before is not None and self.before == self.after


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What changed in one kind of parts, and how many are the same; None where a side does not tell."""

    changed: tuple[PartChange, ...]
    same: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerChanges:
    """Layers only one side has, and those that both have; sizes where both sides are built."""

    removed: tuple[Layer, ...]
    added: tuple[Layer, ...]
    kept: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two sides, compared. `pull` is what a device that has `before` fetches for `after`, in bytes, compressed."""

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
        """Whether nothing that both sides tell is different."""
        parts = [each for each in (self.packages, self.models) if each]
        layers = self.layers is not None and bool(self.layers.removed or self.layers.added)
        return not (any(each.changed for each in parts) or self.base or layers or self.pull)

"""Groups the wheels of a lock into layers: a pure function of the lock."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.toml import documents
from builder.model.images import OWN_LAYER_FROM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.host.toml.tables import Table
    from builder.model.model_files import LockedModel, ModelFile
    from builder.model.wheels import LockedWheel

# The most layers on the base, and the number of those without wheels or models: system, interpreter,
# environment, runtime, working folder.
MOST_LAYERS = 24
_FIXED_LAYERS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A row of `layers.toml`."""

    name: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelLayer:
    """Wheels that share a layer. `name` identifies the content: wheels and variant."""

    name: str
    wheels: tuple[LockedWheel, ...]


@cache
def groups() -> tuple[Group, ...]:
    """Return the groups of `layers.toml`, lowest layer first.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(Path(__file__).with_name("layers.toml"), "the layer groups have mistakes", _parse)


def wheel_layers(
    wheels: Iterable[LockedWheel],
    variant: str,
    *,
    models: int,
    slimmed: Mapping[str, str] = MappingProxyType({}),
) -> tuple[WheelLayer, ...]:
    """Return the layers for the wheels of a lock, lowest first.

    `variant` are the other inputs of the wheels' files (`wheel_entries.variant`); `models` is the number of
    models, each of which needs at least one layer. `slimmed` are the keys of the rules by which wheels are slimmed, by
    the wheels' sha256.
    """
    grouped: dict[str, list[LockedWheel]] = {group.name: [] for group in groups()}
    for wheel in sorted(wheels, key=lambda w: w.name):
        grouped[_group_of(wheel.name)].append(wheel)
    large = _alone(grouped, MOST_LAYERS - _FIXED_LAYERS - models - len(grouped))
    layers = []
    for name, members in grouped.items():
        layers += [_layer(wheel.name, (wheel,), variant, slimmed) for wheel in members if wheel.name in large]
        rest = tuple(wheel for wheel in members if wheel.name not in large)
        if rest:
            layers.append(_layer(name, rest, variant, slimmed))
    return tuple(layers)


def model_layers(models: Sequence[LockedModel], *, wheels: int) -> tuple[LockedModel, ...]:
    """Return the layers for the models, in their order, each as a model with the files of the layer.

    A model's small files share one layer, and each large file has its own. If there are too many layers with the
    `wheels` layers of wheels, neighbours share. Wheels come first: another model must not change their layers.
    """
    units = [_units(model) for model in models]
    room = max(len(models), MOST_LAYERS - _FIXED_LAYERS - wheels)
    while sum(len(files) for files in units) > room:
        _merge_two(max(units, key=len))
    return tuple(
        replace(model, files=tuple(sorted(files, key=lambda file: file.path)))
        for model, file_groups in zip(models, units, strict=True)
        for files in file_groups
    )


def _units(model: LockedModel) -> list[tuple[ModelFile, ...]]:
    small = tuple(file for file in model.files if file.size < OWN_LAYER_FROM)
    return [*([small] if small else []), *((file,) for file in model.files if file.size >= OWN_LAYER_FROM)]


def _merge_two(units: list[tuple[ModelFile, ...]]) -> None:
    """Merge the two neighbours with the smallest total size."""
    sizes = [sum(file.size for file in left + right) for left, right in pairwise(units)]
    first = sizes.index(min(sizes))
    units[first : first + 2] = [units[first] + units[first + 1]]


def _alone(grouped: dict[str, list[LockedWheel]], room: int) -> frozenset[str]:
    """Return the names of the wheels that get their own layer.

    If there are too many, those of the lowest groups share: they change together. Sizes do not decide this, or a new
    version of one wheel could change another one's layer.
    """
    large = [
        wheel.name for members in reversed(grouped.values()) for wheel in members if (wheel.size or 0) >= OWN_LAYER_FROM
    ]
    return frozenset(large[: max(room, 0)])


def _group_of(name: str) -> str:
    """Return the group of the matching pattern; the catch-all comes last."""
    matching = [group for group in groups() if any(fnmatch.fnmatchcase(name, p) for p in group.patterns)]
    return min(matching, key=lambda group: "*" in group.patterns).name


def _layer(name: str, wheels: tuple[LockedWheel, ...], variant: str, slimmed: Mapping[str, str]) -> WheelLayer:
    keys = ([wheel.sha256, slimmed[wheel.sha256]] if wheel.sha256 in slimmed else wheel.sha256 for wheel in wheels)
    content = records.fingerprint(variant, list(keys))
    return WheelLayer(name=f"{name}-{content[:12]}", wheels=wheels)


def _parse(root: Table) -> tuple[Group, ...]:
    rows = []
    for table in root.tables("groups"):
        name, _ = table.string("name", pattern=r"[a-z]+", noun="a short name"), table.string("why")
        rows.append(Group(name=name, patterns=table.strings("wheels")))
        table.done()
    return tuple(rows)

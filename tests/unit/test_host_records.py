"""Records: what goes into a file comes out of it, and damage counts as absence."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from factories import DIGEST, make_lock
from hypothesis import given
from hypothesis import strategies as st

from builder.host import records
from builder.model.images import Descriptor, Image
from builder.model.locks import Lock


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaf:
    name: str
    size: int
    share: float
    good: bool
    level: Literal["gpu", "cpu"]
    path: Path
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    leaves: tuple[Leaf, ...]
    pair: tuple[str, int]
    pairs: tuple[tuple[str, str], ...]
    table: dict[str, tuple[int, ...]]
    best: Leaf | None
    anything: Any = None


_texts = st.text(max_size=20)
_numbers = st.integers(min_value=-(2**60), max_value=2**60)
_leaves = st.builds(
    Leaf,
    name=_texts,
    size=_numbers,
    share=st.floats(allow_nan=False),
    good=st.booleans(),
    level=st.sampled_from(["gpu", "cpu"]),
    path=st.text(alphabet="abc/.é ", min_size=1, max_size=9).map(Path),
    note=st.none() | _texts,
)
_trees = st.builds(
    Tree,
    leaves=st.lists(_leaves, max_size=3).map(tuple),
    pair=st.tuples(_texts, _numbers),
    pairs=st.lists(st.tuples(_texts, _texts), max_size=3).map(tuple),
    table=st.dictionaries(_texts, st.lists(_numbers, max_size=3).map(tuple), max_size=3),
    best=st.none() | _leaves,
    anything=st.none() | _texts | _numbers,
)
LEAF = Leaf(name="a", size=1, share=0.5, good=True, level="gpu", path=Path("x"))
TREE = Tree(leaves=(LEAF,), pair=("a", 1), pairs=(("b", "c"),), table={"d": (1,)}, best=None)


@given(_trees)
def test_round_trip(tree: Tree) -> None:
    text = json.dumps(records.to_json(tree))
    assert records.from_json(json.loads(text), Tree) == tree


def test_round_trip_of_real_records(tmp_path: Path) -> None:
    image = Image(
        platform="linux/arm64",
        manifest=Descriptor(media_type="m", digest=DIGEST, size=1),
        config=Descriptor(media_type="c", digest=DIGEST, size=2),
        layers=(Descriptor(media_type="l", digest=DIGEST, size=3),),
        labels=(("a", "b"),),
    )
    records.write(tmp_path / "build.json", "f", image)
    assert records.read(tmp_path / "build.json", "f", Image) == image
    records.write(tmp_path / "lock.json", "f", make_lock())
    assert records.read(tmp_path / "lock.json", "f", Lock) == make_lock()


def test_a_record_made_from_something_else_is_none(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    records.write(path, "one", TREE)
    assert records.read(path, "two", Tree) is None
    assert records.read(path, "one", Tree) == TREE
    assert records.read(path, None, Tree) == TREE


def test_a_record_of_another_format_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.write(tmp_path / "r.json", "one", TREE)
    monkeypatch.setattr(records, "FORMAT", records.FORMAT + 1)
    assert records.read(tmp_path / "r.json", "one", Tree) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "fingerprint": "f"}',
        b"[" * 200_000,
    ],
)
def test_a_damaged_file_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "r.json").write_bytes(damage)
    assert records.read(tmp_path / "r.json", "f", Tree) is None


def test_an_absent_file_and_a_folder_are_none(tmp_path: Path) -> None:
    assert records.read(tmp_path / "r.json", "f", Tree) is None
    assert records.read(tmp_path, "f", Tree) is None


def test_a_file_cut_anywhere_is_none(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    records.write(path, "f", TREE)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        assert records.read(path, "f", Tree) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("leaves", None),
        ("leaves", "text"),
        ("leaves", {"a": 1}),
        ("leaves", [1]),
        ("leaves", [[]]),
        ("leaves", [{"name": "a"}]),
        ("leaves", [{**records.to_json(LEAF), "level": "tpu"}]),
        ("leaves", [{**records.to_json(LEAF), "size": "1"}]),
        ("leaves", [{**records.to_json(LEAF), "size": True}]),
        ("leaves", [{**records.to_json(LEAF), "size": 1.5}]),
        ("leaves", [{**records.to_json(LEAF), "share": True}]),
        ("leaves", [{**records.to_json(LEAF), "good": 1}]),
        ("leaves", [{**records.to_json(LEAF), "path": 1}]),
        ("leaves", [{**records.to_json(LEAF), "name": None}]),
        ("leaves", [{**records.to_json(LEAF), "new": 1}]),
        ("pair", ["a"]),
        ("pair", ["a", 1, 2]),
        ("pair", "a1"),
        ("pairs", ["ab"]),
        ("table", []),
        ("table", {"a": 1}),
        ("best", 1),
        ("best", []),
    ],
)
def test_a_value_of_the_wrong_shape_is_none(tmp_path: Path, key: str, value: object) -> None:
    body = {"format": records.FORMAT, "fingerprint": "f", "record": {**records.to_json(TREE), key: value}}
    (tmp_path / "r.json").write_text(json.dumps(body))
    assert records.read(tmp_path / "r.json", "f", Tree) is None


@given(st.recursive(st.none() | st.booleans() | _numbers | _texts, lambda s: st.lists(s) | st.dictionaries(_texts, s)))
def test_whatever_the_json_holds_decoding_gives_a_record_or_a_known_error(value: object) -> None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        assert isinstance(records.from_json(value, Tree), Tree)


@given(_trees)
def test_a_fingerprint_depends_on_content_only(tree: Tree) -> None:
    shuffled = dict(reversed(list(records.to_json(tree).items())))
    assert records.fingerprint(tree) == records.fingerprint(shuffled)


def test_a_fingerprint_tells_inputs_apart() -> None:
    inputs: list[tuple[Any, ...]] = [
        (),
        ("",),
        ("a",),
        ("a", "b"),
        (("a", "b"),),
        ("ab",),
        (None,),
        (1,),
        ("1",),
        (TREE,),
    ]
    assert len({records.fingerprint(*each) for each in inputs}) == len(inputs)

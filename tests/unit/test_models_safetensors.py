"""Reading safetensors headers: whole files are understood, everything else is refused with a reason."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_files import ITEM_BYTES, tensor_bytes, weights

from builder.models.safetensors import HeaderError, Tensor, header_length, parse_header, read_header

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=5,
)


def parse(data: bytes) -> tuple[Tensor, ...]:
    length = header_length(data[:8], len(data))
    return parse_header(data[8 : 8 + length], len(data) - 8 - length)


@given(TENSORS)
def test_every_whole_file_is_read(tensors: dict[str, tuple[str, list[int]]]) -> None:
    expected = [
        Tensor(name=name, dtype=dtype, shape=tuple(shape), size=tensor_bytes(dtype, shape))
        for name, (dtype, shape) in sorted(tensors.items())
    ]
    assert list(parse(weights(tensors))) == expected


@given(TENSORS, st.data())
def test_every_cut_is_noticed(tensors: dict[str, tuple[str, list[int]]], data: st.DataObject) -> None:
    whole = weights(tensors)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(HeaderError, match="is truncated"):
        parse(whole[:cut])


@given(st.binary(max_size=200))
def test_garbage_is_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(HeaderError):
        parse(data + b"{")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_is_refused_or_read(value: Any) -> None:
    text = json.dumps({"w": value}).encode()
    with pytest.raises(HeaderError):
        parse_header(text, 16)


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\x80\x04pickle", "is not a safetensors file: its header is not JSON"),
        (b"[" * 100_000, "is not a safetensors file: its header is not JSON"),
        (b"[]", "is not a safetensors file: its header is not a JSON object"),
        ({"w": {}}, "is damaged: tensor 'w' lacks a dtype, a shape or offsets"),
        ({"w": entry(offsets=[0])}, "is damaged: tensor 'w' lacks a dtype, a shape or offsets"),
        ({"w": entry(dtype=1)}, "is damaged: tensor 'w' has an impossible dtype, shape or offset"),
        ({"w": entry(shape=[-4])}, "is damaged: tensor 'w' has an impossible dtype, shape or offset"),
        ({"w": entry(shape=[4.0])}, "is damaged: tensor 'w' has an impossible dtype, shape or offset"),
        ({"w": entry(shape=[True])}, "is damaged: tensor 'w' has an impossible dtype, shape or offset"),
        ({"w": entry(offsets=[16, 0])}, "is damaged: tensor 'w' has an impossible dtype, shape or offset"),
        ({"w": entry(shape=[5])}, "is damaged: tensor 'w' (F32 [5]) has 16 bytes"),
        ({"w": entry(offsets=[4, 20])}, "is damaged: tensor 'w' begins at byte 4, not 0"),
        ({"a": entry(), "b": entry()}, "is damaged: tensor 'b' begins at byte 0, not 16"),
        ({"w": entry(shape=[5], offsets=[0, 20])}, "is truncated: its tensors take 20 bytes, 16 are there"),
        ({"w": entry(shape=[3], offsets=[0, 12])}, "is damaged: 4 bytes follow its last tensor"),
    ],
)
def test_what_is_wrong_is_said(header: Any, message: str) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(HeaderError) as caught:
        parse_header(text, 16)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("head", "size", "message"),
    [
        (b"", 0, "is truncated: it has 0 bytes"),
        (b"\x00" * 5, 5, "is truncated: it has 5 bytes"),
        (struct.pack("<Q", 20), 27, "is truncated: its header ends at byte 28, it has 27 bytes"),
        (
            b"GGUF\x03\x00\x00\x00",
            1 << 40,
            "is not a safetensors file: its header would be longer than the format allows",
        ),
    ],
)
def test_a_header_that_has_no_room(head: bytes, size: int, message: str) -> None:
    with pytest.raises(HeaderError) as caught:
        header_length(head, size)
    assert str(caught.value) == message


def test_types_yet_unknown_are_not_measured() -> None:
    text = json.dumps({"w": entry(dtype="F6_E2M3", shape=[21])}).encode()
    assert parse_header(text, 16)[0].dtype == "F6_E2M3"


def test_reads_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights())
    assert read_header(path) == (Tensor(name="w", dtype="F32", shape=(4, 4), size=64),)
    path.write_bytes(weights()[:-1])
    with pytest.raises(HeaderError, match="is truncated: its tensors take 64 bytes, 63 are there"):
        read_header(path)

"""Bytes read at any place: from memory, from files, from deflated streams that are never inflated as a whole."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.audit import byte_source
from builder.audit.byte_source import Deflated, File, MalformedError, Plain, SourceRange

if TYPE_CHECKING:
    from pathlib import Path


def deflated(data: bytes, size: int | None = None) -> Deflated:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return Deflated(Plain(packer.compress(data) + packer.flush()), len(data) if size is None else size)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_source, "_BLOCK", 1000)
    monkeypatch.setattr(byte_source, "_INPUT", 64)
    monkeypatch.setattr(byte_source, "_KEPT_BLOCKS", 2)


@pytest.mark.usefixtures("small_blocks")
def test_a_deflated_stream_is_read_at_any_place_in_any_order() -> None:
    data = os.urandom(3000) + bytes(5000) + os.urandom(2500)
    found = deflated(data)
    for offset, size in ((10_499, 1), (0, 10), (999, 2), (2990, 3000), (0, 10_500), (5000, 0), (10_000, 500), (1, 1)):
        assert found.read(offset, size) == data[offset : offset + size]


@given(st.binary(max_size=5000), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=5))
def test_reading_is_slicing(data: bytes, places: list[tuple[int, int]]) -> None:
    for each in (Plain(data), deflated(data), SourceRange(Plain(b"xy" + data + b"z"), 2, len(data))):
        for offset, size in places:
            if offset + size <= len(data):
                assert each.read(offset, size) == data[offset : offset + size]
            else:
                with pytest.raises(MalformedError):
                    each.read(offset, size)


@pytest.mark.usefixtures("small_blocks")
def test_going_back_inflates_one_block_and_not_all_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = deflated(os.urandom(20_000))
    found.read(19_999, 1)
    inflated: list[int] = []
    usual = byte_source._inflate

    def noted(*args: Any) -> Any:
        inflated.append(args[3])
        return usual(*args)

    monkeypatch.setattr(byte_source, "_inflate", noted)
    found.read(7500, 10)
    assert inflated == [1000]


def test_a_stream_that_ends_before_its_declared_size() -> None:
    found = deflated(b"abc", size=10)
    with pytest.raises(MalformedError, match="ends before"):
        found.read(0, 10)


def test_a_stream_that_holds_more_than_declared_gives_no_more() -> None:
    found = deflated(bytes(1000), size=10)
    assert found.read(0, 10) == bytes(10)
    with pytest.raises(MalformedError, match="outside its 10 bytes"):
        found.read(5, 6)


def test_bytes_that_are_no_stream() -> None:
    with pytest.raises(MalformedError, match="cannot be inflated"):
        Deflated(Plain(b"\xff" * 100), 100).read(0, 1)
    with pytest.raises(MalformedError, match="cannot be inflated"):
        Deflated(Plain(b"\xff" * 100), 100).head(4)


def test_the_head_of_a_stream_needs_its_beginning_only() -> None:
    data = os.urandom(100_000)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    beginning = (packer.compress(data) + packer.flush())[:2000]
    assert Deflated(Plain(beginning), len(data)).head(64) == data[:64]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")
    assert File(path).read(3, 4) == b"3456"
    with pytest.raises(MalformedError):
        File(path).read(8, 3)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789")
    found = File(path)
    path.write_bytes(b"01")
    with pytest.raises(MalformedError, match="became shorter"):
        found.read(3, 4)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="No such file") as caught:
        File(tmp_path / "none")
    assert caught.value.where == str(tmp_path / "none")


def test_a_part_beyond_the_whole() -> None:
    with pytest.raises(MalformedError):
        SourceRange(Plain(b"abc"), 2, 2)

"""Which GPUs a library has code for, from the headers of its fat binaries."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from elf_files import make_elf, make_fatbin
from hypothesis import given
from hypothesis import strategies as st

from builder.audit import elf, fatbin
from builder.audit.byte_source import MalformedError, Plain
from builder.audit.fatbin import Code
from builder.model.audits import GpuTarget


def codes(section: bytes) -> Counter[Code]:
    source = Plain(make_elf(fatbin=section))
    return fatbin.codes(source, elf.read_source(source))


def test_targets_of_a_file() -> None:
    found = codes(make_fatbin(("sass", 87), ("ptx", 80), ("sass", 110)))
    assert {code.target for code in found} == {GpuTarget("ptx", 80), GpuTarget("sass", 87), GpuTarget("sass", 110)}


def test_a_library_without_gpu_code() -> None:
    assert codes(b"") == Counter()


def test_entries_are_counted_and_ptx_tells_its_version() -> None:
    found = codes(make_fatbin(("sass", 87), ("sass", 87), ("ptx", 90), isa=(9, 0)))
    assert found == {Code(GpuTarget("sass", 87), (0, 0)): 2, Code(GpuTarget("ptx", 90), (9, 0)): 1}


@pytest.mark.parametrize("padding", [b"", bytes(8), bytes(1000)])
def test_containers_lie_beside_each_other(padding: bytes) -> None:
    section = make_fatbin(("sass", 80)) + padding + make_fatbin(("sass", 90)) + bytes(24)
    assert {code.target.sm for code in codes(section)} == {80, 90}


def test_entries_of_other_kinds_are_passed_over() -> None:
    section = bytearray(make_fatbin(("sass", 80), ("sass", 90)))
    section[16:18] = struct.pack("<H", 8)
    assert {code.target.sm for code in codes(bytes(section))} == {90}


def test_what_is_no_container_is_no_code() -> None:
    assert codes(b"\x01" * 5000) == Counter()


@pytest.mark.parametrize(("place", "value"), [(8, 1 << 40), (16 + 8, 1 << 40), (16 + 4, 4)])
def test_sizes_that_lie(place: int, value: int) -> None:
    section = bytearray(make_fatbin(("sass", 80), ("sass", 90)))
    form = "<Q" if value > 4 else "<I"
    struct.pack_into(form, section, place, value)
    with pytest.raises(MalformedError, match=r"cut off|beyond its container"):
        codes(bytes(section))


def test_more_entries_than_any_library_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fatbin, "_MOST_ENTRIES", 3)
    with pytest.raises(MalformedError, match="more GPU code"):
        codes(make_fatbin(*[("sass", 80)] * 4))


GOOD = make_fatbin(("sass", 80), ("ptx", 90)) + bytes(16) + make_fatbin(("sass", 87))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_does_more_than_a_malformed_error(changes: list[tuple[int, int]]) -> None:
    section = bytearray(GOOD)
    for place, value in changes:
        section[place] = value
    try:
        found = codes(bytes(section))
    except MalformedError:
        return
    assert sum(found.values()) <= len(GOOD) // 44

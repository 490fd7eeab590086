"""Payloads of GPU code and the names of the kernels in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from elf_files import make_elf
from gpu_code import EXACT, FAMILY, LZ4, ZSTD, make_container, make_cubin, make_entry, make_ptx
from hypothesis import given
from hypothesis import strategies as st

from builder.audit import elf, fatbin, kernel_names
from builder.audit.byte_source import MalformedError, Plain
from builder.model.audits import GpuTarget

if TYPE_CHECKING:
    from builder.audit.fatbin import Entry

CUBIN = make_cubin("one", "two")


def kernels(section: bytes) -> list[tuple[int, str, list[bytes]]]:
    source = Plain(make_elf(fatbin=section))
    read = kernel_names.kernels(source, elf.read_source(source))
    return [(number, str(entry.code.target.kind), names) for number, entry, names in read]


def only_entry(section: bytes) -> tuple[Plain, Entry]:
    source = Plain(section)
    ((container),) = fatbin.containers_between(source, 0, len(section))
    return source, container.entries[0]


@pytest.mark.parametrize("flags", [0, LZ4, ZSTD, ZSTD | EXACT, LZ4 | FAMILY])
def test_a_payload_is_the_same_however_it_is_compressed(flags: int) -> None:
    source, entry = only_entry(make_container(make_entry(CUBIN, flags=flags)))
    payload = fatbin.payload(source, entry)
    # Without compression the padding belongs to it.
    assert payload.rstrip(b"\0") == CUBIN.rstrip(b"\0")
    assert entry.unpacked == len(payload)


@pytest.mark.parametrize("flags", [LZ4, ZSTD])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unpacked": len(CUBIN) + 1}, "has another size than its header states|cannot be decompressed"),
        ({"unpacked": len(CUBIN) - 1}, "has another size than its header states|cannot be decompressed"),
        ({"unpacked": 0}, "has another size than its header states|cannot be decompressed"),
        ({"unpacked": 1 << 29}, "claims more than 256 MiB"),
        ({"packed": 9}, "has another size than its header states|cannot be decompressed"),
        ({"packed": 0}, "has another size than its header states|cannot be decompressed"),
        ({"packed": 1 << 20}, "larger than its room"),
    ],
)
def test_sizes_that_are_wrong(flags: int, changes: dict[str, Any], message: str) -> None:
    source, entry = only_entry(make_container(make_entry(CUBIN, flags=flags, **changes)))
    with pytest.raises(MalformedError, match=message):
        fatbin.payload(source, entry)


def test_kernels_of_cubins_and_of_ptx_by_container() -> None:
    first = make_container(make_entry(CUBIN, flags=ZSTD), make_entry(make_ptx("one", "three"), kind="ptx", flags=LZ4))
    second = make_container(make_entry(make_cubin("four"), 90, flags=EXACT))
    assert kernels(first + second) == [
        (0, "sass", [b"one", b"two"]),
        (0, "ptx", [b"one", b"three"]),
        (1, "sass", [b"four"]),
    ]


def test_containers_are_counted_over_all_sections_and_padding() -> None:
    empty = make_container()
    one = make_container(make_entry(make_cubin("k")))
    assert [number for number, *_ in kernels(empty + bytes(256) + one + bytes(64) + one)] == [1, 2]


def test_a_cubin_without_kernels_and_one_without_symbols() -> None:
    assert kernel_names.names(make_cubin(), "sass") == []
    assert kernel_names.names(make_cubin(tables=0), "sass") == []


def test_a_cubin_whose_first_section_counts_the_others() -> None:
    assert kernel_names.names(make_cubin("k", counted=False), "sass") == [b"k"]


def test_ptx_has_kernels_and_functions() -> None:
    text = b".entry a()\n.visible .entry _Z1bv(\n.weak .entry\n$c%(\n.visible .func d()\n"
    assert kernel_names.names(text, "ptx") == [b"a", b"_Z1bv", b"$c%"]


@pytest.mark.parametrize(
    ("cubin", "message"),
    [
        (b"", "cut off"),
        (b"text".ljust(100), "not a cubin"),
        (make_elf(), "not a cubin"),
        (make_cubin("k", tables=2), "more than one symbol table"),
        (CUBIN[:200], "cut off"),
        (CUBIN[:-5], "cut off"),
        (CUBIN[:40] + b"\xff" * 8 + CUBIN[48:], "cut off"),
        (CUBIN.replace(b"\0device_function\0", b"\0device_functionx"), "no readable name"),
    ],
)
def test_what_is_not_a_cubin(cubin: bytes, message: str) -> None:
    if message == "no readable name":
        # The last name has no end.
        cubin = make_cubin("k", others=())[:-1] + b"x"
    with pytest.raises(MalformedError, match=message):
        kernel_names.names(cubin, "sass")


@pytest.mark.parametrize(
    ("made", "target"),
    [
        ({"sm": 90}, GpuTarget("sass", 90)),
        ({"sm": 80, "abi": 7}, GpuTarget("sass", 80)),
        ({"sm": 100, "accelerated": True}, GpuTarget("sass", 100, "a")),
        ({"sm": 100, "options": "-v  -arch sm_100f -m 64"}, GpuTarget("sass", 100, "f")),
        ({"sm": 90, "options": "-arch=sm_90a"}, GpuTarget("sass", 90, "a")),
        ({"sm": 120, "options": "-arch sm_120 -m 64"}, GpuTarget("sass", 120)),
    ],
)
def test_the_target_of_a_loose_cubin(made: dict[str, Any], target: GpuTarget) -> None:
    cubin = make_cubin("k", **made)
    entry, names = kernel_names.loose_cubin(cubin)
    assert (entry.code.target, entry.unpacked, names) == (target, len(cubin), [b"k"])


@pytest.mark.parametrize(("limit", "value"), [("_MOST_KERNELS", 3), ("_LONGEST_NAMES", 10)])
def test_more_kernels_than_any_library_has(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_names, limit, value)
    section = make_container(*[make_entry(CUBIN)] * 2)
    with pytest.raises(MalformedError, match="more kernels than any library has"):
        kernels(section)


def test_entries_are_limited_as_those_of_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fatbin, "_MOST_ENTRIES", 3)
    with pytest.raises(MalformedError, match="more GPU code"):
        kernels(make_container(*[make_entry(CUBIN)] * 4))


GOOD = make_container(
    make_entry(CUBIN, flags=ZSTD), make_entry(make_cubin("a", sm=90), 90, flags=LZ4), make_entry(make_cubin("b"))
)
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8)


@given(CHANGES)
def test_no_damaged_container_does_more_than_a_malformed_error(changes: list[tuple[int, int]]) -> None:
    section = bytearray(GOOD)
    for place, value in changes:
        section[place % len(GOOD)] = value
    try:
        read = kernels(bytes(section))
    except MalformedError:
        return
    assert sum(len(names) for *_, names in read) <= 16


LOOSE = make_cubin("one", "two", sm=100, options="-arch sm_100f")


@given(CHANGES, st.integers(0, len(LOOSE)))
def test_no_damaged_cubin_does_more_than_a_malformed_error(changes: list[tuple[int, int]], size: int) -> None:
    cubin = bytearray(LOOSE)
    for place, value in changes:
        cubin[place % len(LOOSE)] = value
    for data in (bytes(cubin), LOOSE[:size]):
        try:
            _, names = kernel_names.loose_cubin(data)
        except MalformedError:
            continue
        assert len(names) <= len(LOOSE) // 24

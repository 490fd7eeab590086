"""Reading ELF files: what the loader sees, and what lies do not break."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from elf_files import AMD64, ARM64, make_elf
from hypothesis import example, given
from hypothesis import strategies as st

from builder.audit import elf
from builder.audit.byte_source import File, MalformedError, Plain
from builder.audit.elf import Defined, UndefinedSymbol
from builder.errors import AuditError
from builder.model.audits import Header, VersionNeed

FULL: dict[str, Any] = {
    "needed": ["libc.so.6", "libx.so.1"],
    "soname": "libdemo.so.2",
    "runpath": "$ORIGIN/../lib:/opt/lib",
    "defined": ["plain", ("versioned", "DEMO_1")],
    "defines": ["DEMO_1"],
    "undefined": [("malloc", "GLIBC_2.17"), "anything"],
    "weak": ["maybe"],
    "versions": {"libc.so.6": ["GLIBC_2.17", "GLIBC_2.36"], "libx.so.1": ["X_1"]},
}


def read(data: bytes) -> elf.ElfFacts:
    return elf.read_source(Plain(data))


@pytest.mark.parametrize("sections", [True, False])
def test_everything_that_the_loader_reads(sections: bool) -> None:
    found = read(make_elf(**FULL, sections=sections))
    assert found.header == Header(64, True, elf.SHARED, ARM64, 0)
    assert found.dynamic
    assert (found.needed, found.soname) == (("libc.so.6", "libx.so.1"), "libdemo.so.2")
    assert (found.rpath, found.runpath) == (None, "$ORIGIN/../lib:/opt/lib")
    assert found.undefined == (
        UndefinedSymbol(b"malloc", b"GLIBC_2.17", False),
        UndefinedSymbol(b"anything", None, False),
        UndefinedSymbol(b"maybe", None, True),
    )
    assert found.defined == (Defined(b"plain", None, False), Defined(b"versioned", b"DEMO_1", False))
    assert found.version_defines == ("DEMO_1",)
    assert found.version_needs == (
        VersionNeed("libc.so.6", "GLIBC_2.17", False),
        VersionNeed("libc.so.6", "GLIBC_2.36", False),
        VersionNeed("libx.so.1", "X_1", False),
    )


def test_rpath_and_hidden_versions() -> None:
    found = read(make_elf(rpath="$ORIGIN", defined=[("old", "V1")], defines=["V1"], hidden=True))
    assert (found.rpath, found.runpath) == ("$ORIGIN", None)
    assert found.defined == (Defined(b"old", b"V1", True),)


def test_a_file_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "libdemo.so"
    path.write_bytes(make_elf(soname="libdemo.so"))
    assert elf.read_source(File(path)).soname == "libdemo.so"


def test_the_interpreter_that_runs_this() -> None:
    found = elf.read_source(File(Path(sys.executable).resolve()))
    assert found.header.bits == 64
    assert any(name.startswith("libc.so") for name in found.needed)
    names = (*(symbol.name for symbol in found.defined), *(name for name, *_ in found.undefined))
    assert any(name.startswith(b"Py_") for name in names)


@pytest.mark.parametrize("identity", [(1, 1), (2, 2), (1, 2)])
def test_other_classes_are_named_and_not_read(identity: tuple[int, int]) -> None:
    data = bytearray(make_elf(machine=AMD64))
    data[4], data[5] = identity
    order = "<" if identity[1] == 1 else ">"
    data[16:20] = struct.pack(f"{order}HH", 3, 40)
    found = read(bytes(data))
    assert found.header[:4] == (64 if identity[0] == 2 else 32, identity[1] == 1, 3, 40)
    assert not found.dynamic


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" + bytes(100), b"\x7fELF" + bytes(59)])
def test_what_is_no_elf_file(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read(data)
    assert isinstance(caught.value, AuditError)


def test_every_truncation_is_told() -> None:
    data = make_elf(**FULL, sections=False)
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            read(data[:size])


WHOLE = make_elf(**FULL, fatbin=b"x" * 64)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=12))
@example([(40, 255), (41, 255), (60, 255), (61, 255)])
def test_no_damage_does_more_than_a_malformed_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    try:
        read(bytes(data))
    except MalformedError as error:
        assert error.message  # noqa: PT017


@given(st.binary(max_size=600))
def test_noise_behind_a_good_header(noise: bytes) -> None:
    try:
        read(WHOLE[:64] + noise)
    except MalformedError as error:
        assert error.message  # noqa: PT017


def _with_tag(data: bytes, tag: int, value: int) -> bytes:
    """Change a value of the dynamic table."""
    changed = bytearray(data)
    start, size = struct.unpack_from("<8xQ16xQ", data, 64 + 56)
    for at in range(start, start + size, 16):
        if struct.unpack_from("<Q", data, at)[0] == tag:
            changed[at + 8 : at + 16] = struct.pack("<Q", value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (10, 1 << 40, "claims 1099511627776 bytes"),
        (10, 1 << 20, "beyond its segment"),
        (5, 1 << 30, "in no segment"),
        (6, 1 << 30, "in no segment"),
        (14, 1 << 20, "outside the string table"),
        (0x6FFFFFFE, 8, "outside the string table|beyond|no segment|asked for"),
    ],
)
def test_lies_of_the_dynamic_table(tag: int, value: int, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        read(_with_tag(make_elf(**FULL), tag, value))


def test_a_hash_table_that_claims_more_symbols_than_any_file_has() -> None:
    data = make_elf(defined=["one"], sections=False)
    start, size = struct.unpack_from("<8xQ16xQ", data, 64 + 56)
    (at,) = (row[1] for row in struct.iter_unpack("<QQ", data[start : start + size]) if row[0] == 4)
    with pytest.raises(MalformedError, match="claims 4294967295 dynamic symbols"):
        read(data[:at] + struct.pack("<II", 0, 2**32 - 1) + data[at + 8 :])


def test_a_loop_of_version_needs_ends() -> None:
    data = make_elf(versions={"libc.so.6": ["GLIBC_2.17"]}, needed=["libc.so.6"])
    at = data.index(struct.pack("<HHI", 1, 1, 1)[:4], 200)
    looping = data[: at + 12] + struct.pack("<I", 0) + data[at + 16 :]
    assert read(looping).version_needs == (VersionNeed("libc.so.6", "GLIBC_2.17", False),)


def test_names_without_an_end_are_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "_LONGEST_NAME", 10)
    with pytest.raises(MalformedError, match="name is outside"):
        read(make_elf(defined=["a" * 20]))


def test_all_names_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elf, "_LONGEST_NAMES", 50)
    with pytest.raises(MalformedError, match="name is outside"):
        read(make_elf(defined=[f"symbol_{number}" for number in range(20)]))


def test_symbols_counted_by_a_gnu_hash_table() -> None:
    data = make_elf(defined=["one", "two"], sections=False)
    place = len(data)
    table = struct.pack("<IIIIQIII", 1, 1, 1, 0, 0, 1, 2, 3)
    loads = bytearray(data + table)
    struct.pack_into("<Q", loads, 64 + 32, len(loads))
    changed = _with_tag(bytes(loads), 4, 0).replace(struct.pack("<QQ", 4, 0), struct.pack("<QQ", 0x6FFFFEF5, place))
    assert [symbol.name for symbol in read(changed).defined] == [b"one", b"two"]

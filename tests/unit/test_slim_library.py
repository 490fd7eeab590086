"""Libraries without the code for other GPUs."""

from __future__ import annotations

import ctypes
import platform
import struct
from typing import TYPE_CHECKING

import pytest

import slim_fuzz
from builder.audit import elf, fatbin
from builder.audit.byte_source import MalformedError, Plain
from builder.audit.fatbin import Code
from builder.image.slim import byte_plan
from builder.image.slim.byte_plan import Region, Zeros
from builder.image.slim.entry_choice import AddedEntry
from builder.image.slim.slim_library import slim_library
from builder.model.audits import GpuTarget
from builder.model.slimming import SlimMethod, SlimRules
from slimming.gpu_library import ARM64, LibraryShape, make_container, make_entry, make_library
from slimming.slim_checks import outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.host.paths import Workspace

ORIN = SlimRules(sms=(87,), same_major=True)
MIXED = make_container(
    make_entry("sm_80", ("a", "b"), size=4000),
    make_entry("ptx_80", ("a", "b"), compressed=True),
    make_entry("sm_90a", ("a",), size=90_000),
    make_entry("sm_87", ("a",), size=300, compressed=True),
)
FOREIGN = make_container(make_entry("sm_120", size=5000), make_entry("ptx_90"))
CONTAINERS = (MIXED, FOREIGN, make_container(), MIXED)


def slimmed(data: bytes, rules: SlimRules = ORIN) -> bytes:
    return b"".join(slim_library(Plain(data), "demo.so", rules).blocks(Plain(data)))


@pytest.mark.parametrize(
    ("shape", "method"),
    [
        (LibraryShape(), "compact"),
        (LibraryShape(packed=True), "compact"),
        (LibraryShape(note=False, gap=56), "compact"),
        (LibraryShape(machine=ARM64, page=0x10000, align=256), "compact"),
        (LibraryShape(note=False), "in-place"),
        (LibraryShape(stray=True), "in-place"),
        (LibraryShape(unwrapped=1), "in-place"),
    ],
)
def test_the_code_that_stays_is_the_same(shape: LibraryShape, method: SlimMethod) -> None:
    data = make_library(CONTAINERS, shape)
    assert outcome(data, ORIN) == method


def test_another_processor() -> None:
    data = bytearray(make_library(CONTAINERS))
    struct.pack_into("<H", data, 18, 8)
    assert outcome(bytes(data), ORIN) == "in-place"


def test_the_file_becomes_shorter_by_its_pages() -> None:
    data = make_library(CONTAINERS)
    report = slim_library(Plain(data), "demo.so", ORIN).report
    assert report.before - report.after > 180_000
    assert (report.before - report.after) % 0x1000 == 0
    assert {amount.target: amount.entries for amount in report.retained} == {"sm_80": 2, "sm_87": 2}
    assert {amount.target for amount in report.removed} == {"ptx_80", "ptx_90", "sm_120", "sm_90a"}


def test_in_place_zeros_replace_what_went() -> None:
    data = make_library(CONTAINERS, LibraryShape(stray=True))
    library = slim_library(Plain(data), "demo.so", ORIN)
    assert library.report.note == "something besides the CUDA runtime's wrappers points into its GPU code"
    result = slimmed(data)
    assert len(result) == len(data)
    source = Plain(result)
    assert {code.target.sm for code in fatbin.codes(source, elf.read_source(source))} == {80, 87}
    assert bytes(80_000) in result


def test_a_library_without_code_for_the_gpu_has_empty_containers() -> None:
    data = make_library([FOREIGN, FOREIGN])
    source = Plain(slimmed(data))
    containers = list(fatbin.containers(source, elf.read_source(source)))
    assert [(container.size, container.entries) for container in containers] == [(0, ()), (0, ())]


def test_a_library_with_code_for_the_gpu_only_is_unchanged() -> None:
    data = make_library([make_container(make_entry("sm_87"))])
    assert slim_library(Plain(data), "demo.so", ORIN).report.method == "unchanged"
    assert slimmed(data) == data


@pytest.mark.parametrize("rules", [ORIN, SlimRules(sms=(90,), same_major=True), SlimRules(sms=(75,), same_major=True)])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the libraries are for x86-64")
@pytest.mark.parametrize("shape", [LibraryShape(), LibraryShape(note=False, gap=60), LibraryShape(align=256)])
def test_the_loader_loads_it_and_wrappers_point_to_containers(
    rules: SlimRules, shape: LibraryShape, tmp_path: Path
) -> None:
    data = make_library(CONTAINERS, shape)
    path = tmp_path / "slimmed.so"
    path.write_bytes(slimmed(data, rules))
    assert path.stat().st_size < len(data)
    library = ctypes.CDLL(str(path))
    wrappers = ctypes.addressof(ctypes.c_char.in_dll(library, "wrappers"))
    source = Plain(path.read_bytes())
    expected = list(fatbin.containers(source, elf.read_source(source)))
    assert len(expected) == len(CONTAINERS)
    for index, container in enumerate(expected):
        _, _, pointer, _ = struct.unpack("<IIQQ", ctypes.string_at(wrappers + 24 * index, 24))
        size = container.header + container.size
        assert ctypes.string_at(pointer, size) == source.read(container.offset, size)


def test_other_sections_lose_whole_containers_only() -> None:
    data = bytearray(make_library(CONTAINERS))
    position = data.index(b".nv_fatbin\0")
    data[position : position + 10] = b".cask_blob"
    library = slim_library(Plain(bytes(data)), "demo.so", ORIN, {".cask_blob": "container"})
    assert library.report.method == "in-place"
    # The mixed containers stay as they are, with their code for other GPUs.
    assert {amount.target for amount in library.report.removed} == {"sm_120", "ptx_90"}


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(100), make_library([])[:200]])
def test_what_is_no_library(data: bytes) -> None:
    with pytest.raises(MalformedError):
        slim_library(Plain(data), "demo.so", ORIN)


def test_segments_that_overlap() -> None:
    data = bytearray(make_library(CONTAINERS))
    struct.pack_into("<Q", data, 64 + 56 + 16, 0)
    with pytest.raises(MalformedError, match="segments overlap"):
        slim_library(Plain(bytes(data)), "demo.so", ORIN)


def test_mutated_libraries(workspace: Workspace) -> None:
    counted: list[float] = []
    seeds = [make_library(CONTAINERS, shape) for shape in (LibraryShape(), LibraryShape(packed=True, note=False))]
    result = slim_fuzz.fuzz(seeds, 150, 3, workspace, counted.append)
    assert result.violations == ()
    assert len(counted) == 150


def test_patches_must_not_overlap_regions() -> None:
    with pytest.raises(MalformedError, match="overlap"):
        byte_plan.arranged(100, [Region(10, 20, (Zeros(5),))], {8: b"abcd"})
    chunks = byte_plan.arranged(100, [Region(10, 20, (Zeros(5),))], {6: b"abcd", 20: b"x"})
    assert sum(map(byte_plan.length, chunks)) == 95


def test_the_reader_skips_long_runs_of_zeros() -> None:
    section = MIXED + bytes(-len(MIXED) % 8) + bytes(3_000_000) + FOREIGN + bytes(2_000_000)
    source = Plain(section)
    assert len(list(fatbin.containers_between(source, 0, source.size))) == 2


def added(target: str, kernels: Sequence[str], size: int) -> AddedEntry:
    sm = GpuTarget("sass", int(target.removeprefix("sm_")))
    return AddedEntry(Code(sm, (0, 0)), frozenset(map(str.encode, kernels)), make_entry(target, kernels, size=size))


PTX_ONLY = make_container(make_entry("sm_80", ("a",), size=4000), make_entry("ptx_80", ("a",)))
THOR = SlimRules(sms=(110,), same_major=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the libraries are for x86-64")
@pytest.mark.parametrize(("size", "method"), [(600, "in-place"), (200_000, "grown")])
@pytest.mark.parametrize("shape", [LibraryShape(), LibraryShape(packed=True), LibraryShape(align=256)])
def test_compiled_code_replaces_ptx(size: int, method: SlimMethod, shape: LibraryShape, tmp_path: Path) -> None:
    data = make_library((PTX_ONLY, FOREIGN, PTX_ONLY), shape)
    entry = added("sm_110", ("a",), size)
    library = slim_library(Plain(data), "demo.so", THOR, added={2: (entry,)})
    assert (library.report.method, library.report.note) == (method, None) or method == "in-place"
    path = tmp_path / "compiled.so"
    path.write_bytes(b"".join(library.blocks(Plain(data))))
    assert path.stat().st_size == library.report.after
    source = Plain(path.read_bytes())
    containers = list(fatbin.containers(source, elf.read_source(source)))
    targets = [[row.code.target for row in container.entries if row.code] for container in containers]
    assert targets == [[GpuTarget("ptx", 80)], [GpuTarget("ptx", 90)], [GpuTarget("sass", 110)]]
    assert entry.data in path.read_bytes()
    assert [(amount.target, amount.entries) for amount in library.report.compiled] == [("sm_110", 1)]
    wrappers = ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(path)), "wrappers"))
    for index, container in enumerate(containers):
        _, _, pointer, _ = struct.unpack("<IIQQ", ctypes.string_at(wrappers + 24 * index, 24))
        length = container.header + container.size
        assert ctypes.string_at(pointer, length) == source.read(container.offset, length)
    again = slim_library(source, "demo.so", THOR)
    assert again.report.method == "unchanged"


@pytest.mark.parametrize("shape", [LibraryShape(stray=True), LibraryShape(note=False)])
def test_compiled_code_without_room_is_left_out(shape: LibraryShape) -> None:
    data = make_library((PTX_ONLY,), shape)
    library = slim_library(Plain(data), "demo.so", THOR, added={0: (added("sm_110", ("a",), 200_000),)})
    assert library.report.note is not None
    assert library.report.note.startswith("compiled code has no room: ")
    assert library.report.compiled == ()
    assert {amount.target for amount in library.report.retained} == {"ptx_80"}


def test_ptx_stays_for_kernels_that_the_compiled_code_lacks() -> None:
    container = make_container(make_entry("sm_90", size=4000), make_entry("ptx_80", ("a", "b")))
    library = slim_library(Plain(make_library((container,))), "d.so", THOR, added={0: (added("sm_110", ("a",), 64),)})
    assert {amount.target for amount in library.report.retained} == {"ptx_80", "sm_110"}

"""The tags and labels of built wheels: what binaries prove, in words that installers read."""

from __future__ import annotations

import re
from typing import Any

import pytest
from build_factory import CPU, TORCH, make_build, make_target
from elf_files import make_binary
from factories import make_locked_wheel
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from builder.audit.rule_tables import version_numbers
from builder.foundry.abi_tag import measure_abi
from builder.foundry.manylinux import manylinux_policy, measure_platform
from builder.foundry.wheel_label import label_of
from builder.foundry.wheel_names import with_label


def library(path: str = "demo/_C.so", **facts: Any) -> Any:
    return make_binary(path, **facts)


def versioned(*versions: str, file: str = "libc.so.6") -> Any:
    return library(needed=[file], versions={file: list(versions)})


@pytest.mark.parametrize(
    ("versions", "tag"),
    [
        ((), "manylinux_2_17_aarch64"),
        (("GLIBC_2.4",), "manylinux_2_17_aarch64"),
        (("GLIBC_2.17", "GLIBC_2.32"), "manylinux_2_32_aarch64"),
        (("GLIBC_2.9", "GLIBC_2.38"), "manylinux_2_38_aarch64"),
        (("GLIBC_ABI_DT_RELR",), "manylinux_2_36_aarch64"),
    ],
)
def test_the_newest_symbol_of_glibc_decides(versions: tuple[str, ...], tag: str) -> None:
    assert measure_platform([versioned(*versions)], (), CPU).tag == tag


@pytest.mark.parametrize(
    ("version", "file", "tag"),
    [
        ("GLIBCXX_3.4.19", "libstdc++.so.6", "manylinux_2_17_aarch64"),
        ("GLIBCXX_3.4.21", "libstdc++.so.6", "manylinux_2_24_aarch64"),
        ("GLIBCXX_3.4.32", "libstdc++.so.6", "manylinux_2_38_aarch64"),
        ("CXXABI_1.3.13", "libstdc++.so.6", "manylinux_2_34_aarch64"),
        ("GCC_7.0.0", "libgcc_s.so.1", "manylinux_2_26_aarch64"),
        ("GCC_14.0.0", "libgcc_s.so.1", "manylinux_2_39_aarch64"),
    ],
)
def test_other_families_raise_the_tag(version: str, file: str, tag: str) -> None:
    measured = measure_platform([versioned("GLIBC_2.17"), versioned(version, file=file)], (), CPU)
    assert measured.tag == tag
    assert measured.glibc == "2.17"


@pytest.mark.parametrize(
    ("version", "file", "obstacle"),
    [
        ("GLIBCXX_3.4.99", "libstdc++.so.6", "no manylinux tag allows GLIBCXX_3.4.99"),
        ("GLIBC_PRIVATE", "libc.so.6", "no manylinux tag allows GLIBC_PRIVATE"),
    ],
)
def test_a_version_that_no_tag_allows(version: str, file: str, obstacle: str) -> None:
    measured = measure_platform([versioned(version, file=file)], (), CPU)
    assert (measured.tag, measured.obstacles) == ("linux_aarch64", (obstacle,))


def test_libraries_of_requirements_stay_external() -> None:
    binary = library(needed=["libtorch_cpu.so", "libc10.so", "libcudart.so.13", "libc.so.6"])
    measured = measure_platform([binary], {"torch"}, make_target())
    assert measured.tag == "manylinux_2_17_aarch64"
    assert measured.external == ("libc10.so", "libcudart.so.13", "libtorch_cpu.so")


def test_a_library_that_nothing_requires_costs_the_tag() -> None:
    binary = library(needed=["libtorch_cpu.so", "libopenblas.so.0"])
    measured = measure_platform([binary], (), make_target())
    assert measured.tag == "linux_aarch64"
    assert measured.obstacles == ("no requirement of the wheel brings libopenblas.so.0, libtorch_cpu.so",)


def test_the_interpreter_is_no_library_of_the_system() -> None:
    assert measure_platform([library(needed=["libpython3.12.so.1.0"])], (), CPU).tag == "linux_aarch64"


def test_the_driver_counts_for_cuda_only() -> None:
    binary = library(needed=["libcuda.so.1"])
    assert measure_platform([binary], (), make_target()).tag == "manylinux_2_17_aarch64"
    assert measure_platform([binary], (), CPU).tag == "linux_aarch64"


def test_libraries_of_the_wheel_itself() -> None:
    inside = [library(needed=["libdemo.so.1"]), library("demo.libs/libdemo-1234.so", soname="libdemo.so.1")]
    assert measure_platform(inside, (), CPU).tag == "manylinux_2_17_aarch64"


def test_x86_64_has_older_tags() -> None:
    target = make_target(architecture="amd64", gpus=(), cuda=None, torch=None)
    assert measure_platform([versioned("GLIBC_2.3.4")], (), target).tag == "manylinux_2_5_x86_64"


def test_a_wheel_without_binaries_is_for_any_platform() -> None:
    assert measure_platform([], (), CPU).tag == "any"


@given(st.lists(st.integers(0, 45), max_size=6), st.integers(0, 33))
def test_a_tag_never_promises_less_than_the_symbols_need(minors: list[int], glibcxx: int) -> None:
    binaries = [
        versioned(*{f"GLIBC_2.{minor}" for minor in minors}),
        versioned(f"GLIBCXX_3.4.{glibcxx}", file="libstdc++.so.6"),
    ]
    tag = measure_platform(binaries, (), CPU).tag
    promised = int(re.fullmatch(r"manylinux_2_([0-9]+)_aarch64", tag)[1])  # type: ignore[index]
    assert promised >= max([17, *minors])
    allowed = [most for minor, most in manylinux_policy().families["arm64"]["GLIBCXX"] if minor <= promised]
    assert max(allowed) >= (3, 4, glibcxx)


def module(*symbols: str) -> Any:
    return library(undefined=symbols, defined=["PyInit__C"])


def test_a_stable_abi_needs_stable_symbols() -> None:
    stable = measure_abi({"cp39"}, {"abi3"}, [module("PyModule_Create2", "PyExc_ValueError")], "3.12")
    assert (stable.pythons, stable.abi, stable.note) == (("cp39",), "abi3", None)
    other = measure_abi({"cp39"}, {"abi3"}, [module("PyModule_Create2", "_PyUnicode_Ready", "PyFrame_GetBack")], "3.12")
    assert (other.pythons, other.abi) == (("cp312",), "cp312")
    assert (
        other.note
        == "its modules need PyFrame_GetBack, _PyUnicode_Ready, which the stable ABI of Python 3.9 does not have"
    )


def test_a_symbol_of_a_later_stable_abi() -> None:
    binary = module("PyType_GetModuleByDef")
    assert measure_abi({"cp39"}, {"abi3"}, [binary], "3.13").abi == "cp313"
    assert measure_abi({"cp313"}, {"abi3"}, [binary], "3.13").abi == "abi3"


def test_a_wheel_for_all_pythons_has_no_module() -> None:
    assert measure_abi({"py3"}, {"none"}, [library(defined=["demo_run"])], "3.12").pythons == ("py3",)
    measured = measure_abi({"py3"}, {"none"}, [module("PyList_New")], "3.12")
    assert (measured.pythons, measured.abi, measured.note) == (
        ("cp312",),
        "cp312",
        "its modules need the interpreter's PyList_New",
    )


def test_the_tag_of_one_python_stays() -> None:
    assert measure_abi({"cp312"}, {"cp312"}, [module("PyList_New")], "3.12").abi == "cp312"


def test_the_label_names_what_the_wheel_is_for() -> None:
    build = make_build()
    assert re.fullmatch(r"jbuild\.cu130\.torch2\.11\.sm87\.[0-9a-f]{1,8}", label_of(build))
    two = make_build(target=make_target(gpus=("8.7", "11.0")))
    assert ".sm87.sm110." in label_of(two)
    assert re.fullmatch(r"jbuild\.[0-9a-f]{1,8}", label_of(make_build(target=CPU)))


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.1"},
        {"patches": ()},
        {"environment": ()},
        {"requirements": ()},
        {"tools": ()},
        {"compiler": "13.1.0-1"},
        {"interpreter": "3.12.2"},
        {"machine": "arm64"},
        {"target": make_target(glibc="2.35")},
        {"target": make_target(torch=make_locked_wheel("torch", "2.11.0", sha256="0" * 64))},
    ],
)
def test_every_input_changes_the_label(change: dict[str, Any]) -> None:
    assert make_build().fingerprint != make_build(**change).fingerprint
    assert label_of(make_build()) != label_of(make_build(**change))


@given(
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,2}){1,2}((a|rc)[0-9])?(\+[a-z][a-z0-9]{0,5})?", fullmatch=True),
)
def test_a_labelled_name_is_read_as_it_is_written(sha256: str, version: str) -> None:
    build = make_build(requirements=(make_locked_wheel(sha256=sha256), TORCH))
    labelled = with_label(version, label_of(build))
    name, parsed, *_ = parse_wheel_filename(f"demo-{labelled}-cp312-cp312-manylinux_2_32_aarch64.whl")
    assert (name, parsed) == ("demo", Version(labelled))
    assert parsed.public == Version(version).public
    assert str(parsed).endswith(label_of(build))


def test_policies_grow_with_the_c_library() -> None:
    for architecture in ("arm64", "amd64"):
        for rows in manylinux_policy().families[architecture].values():
            assert rows == tuple(sorted(rows))
            assert [most for _, most in rows] == sorted(most for _, most in rows)
    assert version_numbers("GLIBC_2.36") == (2, 36)

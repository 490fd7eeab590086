"""The rules: what each finds, how grave it is, whom it names and what it advises."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from elf_files import AMD64, make_base, make_binary, make_case
from factories import make_jetson, make_platform

from builder.audit.stage import fits, judge, refuse
from builder.errors import AuditError
from builder.model.recipes import Waiver

if TYPE_CHECKING:
    from pathlib import Path

    from builder.audit.audit_context import AuditContext
    from builder.model.audits import Audit, Finding
    from builder.model.platforms import Platform

MODULE = {"defined": ["PyInit__C"]}
C10 = "_ZN3c105ErrorC1ENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"


def audit(case: AuditContext, *waivers: Waiver) -> Audit:
    return judge(case, "one", "debian:bookworm-slim", waivers, time.monotonic())


def only(case: AuditContext, rule: str) -> Finding:
    (found,) = [finding for finding in audit(case).findings if finding.rule == rule]
    return found


def rules(case: AuditContext) -> list[tuple[str, str]]:
    return [(finding.severity, finding.rule) for finding in audit(case).findings]


def demo(**what: Any) -> dict[str, dict[str, Any]]:
    return {"demo": {"demo/_C.so": {**MODULE, **what}}}


def test_a_sound_wheel(tmp_path: Path) -> None:
    found = audit(make_case(tmp_path, demo(needed=["libc.so.6"])))
    assert (found.findings, found.files, found.assumed) == ((), {"demo/_C.so": "loads"}, None)


def test_a_library_that_a_package_of_the_distribution_has(tmp_path: Path) -> None:
    found = only(make_case(tmp_path, demo(needed=["libnuma.so.1"])), "missing-library")
    assert (found.severity, found.wheel, found.file) == ("error", "demo 1.0", "demo/_C.so")
    assert found.detail == "needs libnuma.so.1, and nothing brings it"
    assert found.fix == "add `libnuma1` to `apt` under [base]"


@pytest.mark.parametrize(
    ("distribution", "package"),
    [("debian-12", "libglib2.0-0"), ("debian-13", "libglib2.0-0t64"), ("ubuntu-22.04", "libglib2.0-0")],
)
def test_packages_are_named_as_the_distribution_does(tmp_path: Path, distribution: str, package: str) -> None:
    case = make_case(tmp_path, demo(needed=["libglib-2.0.so.0"]), platform=make_platform(distribution=distribution))
    assert only(case, "missing-library").fix == f"add `{package}` to `apt` under [base]"


@pytest.mark.parametrize(
    ("library", "advice"),
    [
        ("libtorch_cpu.so", "add torch"),
        ("libcublas.so.12", "add NVIDIA's wheel"),
        ("libodd.so", "add a package or wheel"),
    ],
)
def test_advice_where_no_package_is_known(tmp_path: Path, library: str, advice: str) -> None:
    assert only(make_case(tmp_path, demo(needed=[library])), "missing-library").fix.startswith(advice)


def test_many_files_and_libraries_of_one_cause_are_one_finding(tmp_path: Path) -> None:
    files = {f"demo/m{number}.so": {**MODULE, "needed": ["libodd.so", "libstrange.so"]} for number in range(5)}
    found = only(make_case(tmp_path, {"demo": files}), "missing-library")
    assert found.detail == "needs libodd.so, libstrange.so, and nothing brings it"
    assert (found.file, len(found.also)) == ("demo/m0.so", 4)


def test_a_finding_names_the_file_of_each_library(tmp_path: Path) -> None:
    needs = {"demo/a.so": ["libodd.so"], "demo/b.so": ["libodd.so", "libstrange.so"], "demo/c.so": ["libqueer.so"]}
    files = {file: {**MODULE, "needed": needed} for file, needed in needs.items()}
    found = only(make_case(tmp_path, {"demo": files}), "missing-library")
    others = "other files need libqueer.so (demo/c.so), libstrange.so (demo/b.so)"
    assert (found.file, found.detail) == ("demo/a.so", f"needs libodd.so, and nothing brings it; {others}")
    finds = {file: {**MODULE, "needed": [lib]} for file, lib in (("x/a.so", "libc10.so"), ("x/b.so", "libtorch.so"))}
    torch = {**TORCH, "torch/lib/libtorch.so": {"soname": "libtorch.so"}}
    (row,) = (
        row for row in audit(make_case(tmp_path, {"torch": torch, "x": finds})).findings if row.severity == "info"
    )
    assert row.detail.startswith("finds libc10.so only because")


def test_a_library_that_only_others_load_is_no_error(tmp_path: Path) -> None:
    contents = {"demo": {"demo/lib/libplugin.so": {"needed": ["libodd.so"]}}}
    assert rules(make_case(tmp_path, contents)) == [("warning", "missing-library")]


def test_a_library_whose_lack_stops_a_module_is_an_error(tmp_path: Path) -> None:
    contents = {
        "demo/lib/libplugin.so": {"soname": "libplugin.so", "needed": ["libodd.so"]},
        "demo/_C.so": {**MODULE, "needed": ["libplugin.so"], "rpath": "$ORIGIN/lib"},
    }
    found = only(make_case(tmp_path, {"demo": contents}), "missing-library")
    assert (found.severity, found.file) == ("error", "demo/lib/libplugin.so")


def test_a_library_that_another_wheel_has_may_be_loaded_by_it(tmp_path: Path) -> None:
    wheels = {**demo(needed=["libother.so"]), "other": {"other/lib/libother.so": {"soname": "libother.so"}}}
    found = only(make_case(tmp_path, wheels), "missing-library")
    assert found.severity == "warning"
    assert "which other 1.0 has where it does not look" in found.detail


def test_a_library_of_another_machine_is_named(tmp_path: Path) -> None:
    contents = {"demo/_C.so": {**MODULE, "needed": ["libx.so"], "rpath": "$ORIGIN"}, "demo/libx.so": {"machine": AMD64}}
    found = only(make_case(tmp_path, {"demo": contents}), "missing-library")
    assert "only demo 1.0 has one, for another machine" in found.detail


def test_packages_that_nobody_knows_may_bring_it(tmp_path: Path) -> None:
    found = only(make_case(tmp_path, demo(needed=["libodd.so"]), apt=("odd-things", "libnuma1")), "missing-library")
    assert found.severity == "warning"
    assert found.detail == "needs libodd.so, and nothing brings it that is known here; odd-things may"


def test_a_jetsons_base_that_cannot_be_read_may_bring_it(tmp_path: Path) -> None:
    case = make_case(tmp_path, demo(needed=["libcublas.so.12"]), platform=make_jetson(python="3.11"), unread="gone")
    found = only(case, "missing-library")
    assert (found.severity, found.assumed is not None) == ("warning", True)


@pytest.mark.parametrize(
    ("wheel", "file"),
    [
        ("torchaudio", "torio/lib/_torio_ffmpeg4.so"),
        ("nvidia-nvshmem-cu13", "nvidia/nvshmem/lib/nvshmem_bootstrap_mpi.so.3"),
        ("numba", "numba/np/ufunc/omppool.cpython-311-aarch64-linux-gnu.so"),
        ("anything", "anything/tests/_x.so"),
    ],
)
def test_files_that_are_loaded_for_a_purpose_only(tmp_path: Path, wheel: str, file: str) -> None:
    found = only(make_case(tmp_path, {wheel: {file: {**MODULE, "needed": ["libavutil.so.99"]}}}), "missing-library")
    assert found.severity == "info"
    assert found.detail.startswith("does not load, for want of libavutil.so.99; ")


def test_versions_name_who_has_less_and_who_has_enough(tmp_path: Path) -> None:
    versions = {"libstdc++.so.6": ["GLIBCXX_3.4.31", "GLIBCXX_3.4.32"]}
    found = only(make_case(tmp_path, demo(needed=["libstdc++.so.6"], versions=versions)), "symbol-version")
    assert found.severity == "error"
    assert found.detail == "needs GLIBCXX_3.4.32 of libstdc++.so.6; the base image has up to GLIBCXX_3.4.30"
    fetched = "its Python 3.11 is fetched from GitHub, or `mirror` under [python]"
    assert found.fix.endswith(f"or a base that has it: debian-13 ({fetched})"), "Ubuntu 24.04 has Python 3.12 only"
    assert found.assumed is None


def test_assumed_versions_say_so(tmp_path: Path) -> None:
    case = make_case(tmp_path, demo(needed=["libc.so.6"], versions={"libc.so.6": ["GLIBC_2.39"]}), unread="no answer")
    found = only(case, "symbol-version")
    assert found.detail == "needs GLIBC_2.39 of libc.so.6; debian-12 has up to GLIBC_2.36"
    assert found.assumed is not None
    assert "no answer" in found.assumed
    assert "glibc 2.36 and GLIBCXX 3.4.30 of debian-12 are assumed" in found.assumed
    assert audit(case).assumed == found.assumed


TORCH: dict[str, Any] = {
    "torch/_C.cpython-311-aarch64-linux-gnu.so": {**MODULE, "needed": ["libc10.so"], "rpath": "$ORIGIN/lib"},
    "torch/lib/libc10.so": {"soname": "libc10.so"},
}


def test_a_wheel_for_another_torch(tmp_path: Path) -> None:
    contents: dict[str, dict[str, Any]] = {
        "torch": TORCH,
        "flash-attn": {
            f"flash_attn_{n}.so": {**MODULE, "needed": ["libc10.so"], "undefined": [C10, "_ZN2at1xEv"]} for n in "ab"
        },
    }
    found = only(make_case(tmp_path, contents), "undefined-symbol")
    assert (found.severity, found.wheel, found.file, found.also) == (
        "error",
        "flash-attn 1.0",
        "flash_attn_a.so",
        ("flash_attn_b.so",),
    )
    assert found.detail == "needs 2 symbols that torch 1.0 does not have, such as at::x()"
    assert found.fix == "take the build of it that was made for torch 1.0, or the torch that it was made for"


def test_one_symbol_is_demangled(tmp_path: Path) -> None:
    contents = {"torch": TORCH, **demo(needed=["libc10.so"], undefined=[C10])}
    found = only(make_case(tmp_path, contents), "undefined-symbol")
    assert found.detail.startswith("needs a symbol that torch 1.0 does not have, c10::Error::")


def test_a_symbol_that_nothing_has(tmp_path: Path) -> None:
    found = only(make_case(tmp_path, demo(undefined=["gone"])), "undefined-symbol")
    assert found.detail == "needs a symbol that nothing it loads defines, gone"


def test_a_symbol_that_another_wheel_has(tmp_path: Path) -> None:
    wheels = {**demo(undefined=["there"]), "other": {"other/libother.so": {"defined": ["there"]}}}
    found = only(make_case(tmp_path, wheels), "undefined-symbol")
    assert (found.severity, "other 1.0 would define if loaded first" in found.detail) == ("warning", True)


def test_a_symbol_of_cxx(tmp_path: Path) -> None:
    wants = demo(needed=["libstdc++.so.6"], undefined=["_ZSt21ios_base_library_initv"])
    found = only(make_case(tmp_path, wants), "undefined-symbol")
    assert (
        found.detail
        == "needs a symbol that libstdc++.so.6 of the base image does not have, std::ios_base_library_init()"
    )


def test_a_torch_that_does_not_load_is_told_once(tmp_path: Path) -> None:
    broken = {**TORCH, "torch/lib/libc10.so": {"soname": "libc10.so", "needed": ["libgone.so"]}}
    case = make_case(tmp_path, {"torch": broken, **demo(needed=["libc10.so"])})
    found = only(case, "missing-library")
    assert (found.severity, found.wheel, found.file) == ("error", "torch 1.0", "torch/lib/libc10.so")
    assert audit(case).files["demo/_C.so"].startswith("fails: libc10.so")


def test_an_executable_stack(tmp_path: Path) -> None:
    platform = make_platform(glibc="2.41", distribution="debian-13")
    found = only(make_case(tmp_path, demo(stack=7), platform=platform, unread="gone"), "executable-stack")
    assert (found.severity, found.file) == ("error", "demo/_C.so")


def test_what_only_the_nvidia_runtime_brings(tmp_path: Path) -> None:
    wants = demo(needed=["libcuda.so.1"])
    found = only(make_case(tmp_path, wants), "missing-library")
    assert (found.severity, "the platform has no GPU" in found.detail) == ("warning", True)
    assert rules(make_case(tmp_path, wants, platform=make_jetson(python="3.11"))) == []


def test_what_an_import_brings_is_worth_knowing(tmp_path: Path) -> None:
    found = only(make_case(tmp_path, {"torch": TORCH, **demo(needed=["libc10.so"])}), "missing-library")
    assert (found.severity, found.wheel) == ("info", "demo 1.0")


def test_a_module_for_another_machine(tmp_path: Path) -> None:
    found = only(make_case(tmp_path, demo(machine=AMD64)), "wrong-machine")
    assert (found.severity, found.file) == ("error", "demo/_C.so")
    assert found.detail == "is for x86_64, the image for aarch64, and the wheel has none for it"


def test_helpers_for_other_machines_beside_the_right_one(tmp_path: Path) -> None:
    contents = {"debugpy": {"debugpy/attach_amd64.so": {"machine": AMD64}, "debugpy/_C.so": MODULE}}
    assert rules(make_case(tmp_path, contents)) == [("warning", "wrong-machine")]


def test_binaries_of_any_machine_in_a_wheel_for_any(tmp_path: Path) -> None:
    contents = {"helper": {"helper/attach_amd64.so": {"machine": AMD64}}}
    assert rules(make_case(tmp_path, contents, tags={"helper": "py3-none-any"})) == [("warning", "wrong-machine")]
    assert rules(make_case(tmp_path, contents)) == [("error", "wrong-machine")]


def test_32_bit_binaries(tmp_path: Path) -> None:
    data = bytearray(make_wheel_bytes(machine=3))
    data[4] = 1
    assert "is for x86," in only(make_case(tmp_path, {"demo": {"demo/x.so": bytes(data)}}), "wrong-machine").detail


def make_wheel_bytes(**what: Any) -> bytes:
    from elf_files import make_elf  # noqa: PLC0415

    return make_elf(**what)


def test_a_module_of_another_python(tmp_path: Path) -> None:
    contents = {"demo": {"demo/_C.cpython-310-aarch64-linux-gnu.so": MODULE}}
    found = only(make_case(tmp_path, contents), "other-python")
    assert (found.severity, found.detail) == ("error", "is for Python 3.10; the image has 3.11, which does not see it")


@pytest.mark.parametrize("name", ["_C.cpython-311-aarch64-linux-gnu.so", "_C.abi3.so", "_C.so"])
def test_modules_of_several_pythons(tmp_path: Path, name: str) -> None:
    contents = {"demo": {"demo/_C.cpython-310-aarch64-linux-gnu.so": MODULE, f"demo/{name}": MODULE}}
    assert rules(make_case(tmp_path, contents)) == []


def test_modules_that_this_python_does_not_see_are_not_loaded_either(tmp_path: Path) -> None:
    other = {**MODULE, "needed": ["libodd.so"]}
    contents = {"demo": {"demo/_C.cpython-310-aarch64-linux-gnu.so": other, "demo/_C.abi3.so": MODULE}}
    assert rules(make_case(tmp_path, contents)) == []


def test_two_wheels_with_one_file(tmp_path: Path) -> None:
    wheels = {"one": {"shared/x.py": b"1", "shared/same.py": b""}, "two": {"shared/x.py": b"2", "shared/same.py": b""}}
    found = only(make_case(tmp_path, wheels), "file-conflict")
    assert (found.severity, found.wheel, found.file, found.also) == ("warning", "two 1.0", "shared/x.py", ())
    assert "that of one 1.0" in found.detail


def test_two_wheels_with_a_licence(tmp_path: Path) -> None:
    wheels = {"one": {"LICENSE": b"1", "ns/__init__.py": b""}, "two": {"LICENSE": b"2", "ns/__init__.py": b"#"}}
    found = only(make_case(tmp_path, wheels), "file-conflict")
    assert (found.severity, {found.file, *found.also}) == ("info", {"LICENSE", "ns/__init__.py"})


def test_a_tag_that_lies(tmp_path: Path) -> None:
    wants = demo(needed=["libstdc++.so.6"], versions={"libstdc++.so.6": ["GLIBCXX_3.4.30"]})
    found = only(make_case(tmp_path, wants, tags={"demo": "cp311-cp311-manylinux_2_17_aarch64"}), "tag-lies")
    assert found.severity == "info"
    assert found.detail == "needs GLIBCXX_3.4.30; the tag manylinux_2_17 promises 3.4.19 at most"


def test_a_tag_that_lies_where_it_matters(tmp_path: Path) -> None:
    wants = demo(needed=["libstdc++.so.6"], versions={"libstdc++.so.6": ["GLIBCXX_3.4.32"]})
    case = make_case(tmp_path, wants, tags={"demo": "cp311-cp311-manylinux2014_aarch64"})
    assert rules(case) == [("error", "symbol-version"), ("warning", "tag-lies")]


@pytest.mark.parametrize("tag", ["cp311-cp311-linux_aarch64", "cp311-cp311-manylinux_2_35_aarch64"])
def test_tags_that_promise_less(tmp_path: Path, tag: str) -> None:
    wants = demo(needed=["libstdc++.so.6"], versions={"libstdc++.so.6": ["GLIBCXX_3.4.30"]})
    assert rules(make_case(tmp_path, wants, tags={"demo": tag})) == []


def test_damaged_files(tmp_path: Path) -> None:
    found = only(make_case(tmp_path, {"demo": {"demo/cut.so": make_wheel_bytes()[:100]}}), "damaged-wheel")
    assert (found.severity, found.file) == ("error", "demo/cut.so")
    assert "are outside its 100 bytes" in found.detail


def test_two_libraries_of_one_name(tmp_path: Path) -> None:
    def library(symbol: str) -> dict[str, Any]:
        return {"soname": "libshared.so.1", "defined": [symbol]}

    wheels = {"one": {"one/libshared.so.1": library("a")}, "two": {"two/libshared.so.1": library("b")}}
    found = only(make_case(tmp_path, wheels), "two-sonames")
    assert (found.severity, found.wheel, found.also) == ("info", "one 1.0", ("two/libshared.so.1",))
    same = {"one": {"one/libshared.so.1": library("a")}, "two": {"two/libshared.so.1": library("a")}}
    assert rules(make_case(tmp_path, same)) == []


def test_names_made_of_content_do_not_clash(tmp_path: Path) -> None:
    def library(symbol: str) -> dict[str, Any]:
        return {"soname": "libgfortran-daac5196.so.5.0.0", "defined": [symbol]}

    wheels = {name: {f"{name}.libs/libgfortran-daac5196.so.5.0.0": library(name)} for name in ("one", "two")}
    assert rules(make_case(tmp_path, wheels)) == []


def test_a_cuda_library_beside_the_systems(tmp_path: Path) -> None:
    base = make_base(make_binary("/usr/lib/libcublas.so.12", soname="libcublas.so.12"))
    wheels = {"nvidia-cublas-cu12": {"nvidia/cublas/lib/libcublas.so.12": {"soname": "libcublas.so.12"}}}
    found = only(make_case(tmp_path, wheels, base=base), "two-sonames")
    assert (found.severity, "the base image" in found.detail) == ("warning", True)


def test_findings_come_gravest_first(tmp_path: Path) -> None:
    wheels = {
        **demo(needed=["libnuma.so.1"], undefined=["_ZN4goneEv"]),
        "a": {"LICENSE": b"1"},
        "b": {"LICENSE": b"2"},
        "c": {"c/libc.so": {"needed": ["libodd.so"]}},
    }
    found = rules(make_case(tmp_path, wheels))
    assert found == [
        ("error", "missing-library"),
        ("error", "undefined-symbol"),
        ("warning", "missing-library"),
        ("info", "file-conflict"),
    ]


WAIVER = Waiver(rule="missing-library", reason="loaded by hand")


@pytest.mark.parametrize(
    ("changes", "waived"),
    [
        ({}, True),
        ({"wheel": "demo"}, True),
        ({"wheel": "demo 1.*"}, True),
        ({"wheel": "other"}, False),
        ({"file": "demo/*"}, True),
        ({"file": "*/x.so"}, False),
    ],
)
def test_waivers(tmp_path: Path, changes: dict[str, str], waived: bool) -> None:
    waiver = Waiver(rule=WAIVER.rule, reason=WAIVER.reason, **changes)
    found = audit(make_case(tmp_path, demo(needed=["libnuma.so.1"])), waiver)
    assert found.findings[0].waived == ("loaded by hand" if waived else None)
    assert found.counted("error") == (0 if waived else 1)
    assert bool(found.warnings) is not waived


def test_a_waiver_that_matches_nothing_is_said(tmp_path: Path) -> None:
    waiver = Waiver(rule="gpu-code", reason="r", wheel="demo", file="x*")
    (warning,) = audit(make_case(tmp_path, demo()), waiver).warnings
    assert warning == "the waiver of gpu-code, wheel demo, file x* matches nothing: take it out of the recipe"


def test_a_waiver_reaches_every_file_of_a_cause(tmp_path: Path) -> None:
    files = {f"demo/m{number}.so": {**MODULE, "needed": ["libodd.so"]} for number in range(3)}
    found = only(make_case(tmp_path, {"demo": files}), "missing-library")
    assert fits(Waiver(rule="missing-library", reason="r", file="demo/m2.so"), found)


def test_errors_stop_a_cell_and_waived_ones_do_not(tmp_path: Path) -> None:
    case = make_case(tmp_path, demo(needed=["libnuma.so.1"], undefined=["_ZN4goneEv"]))
    with pytest.raises(
        AuditError, match=r"missing-library: demo 1.0: demo/_C.so needs libnuma.so.1.*, and 1 more"
    ) as caught:
        refuse(audit(case), "recipe")
    assert (caught.value.exit_code, caught.value.where) == (14, "recipe/one")
    assert "add `libnuma1`" in str(caught.value.hint)
    refuse(audit(case, WAIVER, Waiver(rule="undefined-symbol", reason="r")), "recipe")


@pytest.mark.parametrize("said", ["debian-13", "ubuntu-22.04", "fedora-40"])
def test_a_base_image_of_another_distribution(tmp_path: Path, said: str) -> None:
    case = make_case(tmp_path, demo(needed=["libc.so.6"]), base=make_base(distribution=(said,)))
    found = only(case, "other-distribution")
    assert (found.severity, found.wheel, found.file) == ("error", "the base image", "/etc/os-release")
    assert found.detail == f"says {said}, and the cell is for debian-12"
    assert "`image` under [base]" in found.fix
    with pytest.raises(AuditError, match=f"the base image: /etc/os-release says {said}"):
        refuse(audit(case), "demo")


@pytest.mark.parametrize("said", [("debian-12",), ()])
def test_a_base_image_of_the_cells_distribution_or_of_none(tmp_path: Path, said: tuple[str, ...]) -> None:
    assert rules(make_case(tmp_path, demo(needed=["libc.so.6"]), base=make_base(distribution=said))) == []


def test_a_base_image_that_stands_in_is_of_another_distribution(tmp_path: Path) -> None:
    base = make_base(distribution=("ubuntu-22.04",))
    found = only(make_case(tmp_path, demo(), base=base, stand_in="only for trying"), "other-distribution")
    assert found.severity == "warning"
    assert found.detail.endswith("it stands in for the real one: only for trying")


def test_another_distribution_can_be_waived(tmp_path: Path) -> None:
    case = make_case(tmp_path, demo(), base=make_base(distribution=("devuan-5",)))
    (found,) = audit(case, Waiver(rule="other-distribution", reason="it has Debian's packages")).findings
    assert found.waived == "it has Debian's packages"


@pytest.mark.parametrize(
    ("platform", "advice"),
    [
        (make_platform(python="3.12"), "debian-13 (its Python 3.12 is fetched"),
        (make_platform(python="3.12"), "`mirror` under [python]), ubuntu-24.04"),
        (make_platform(python="3.13"), "a base that has it: debian-13"),
        (make_jetson(python="3.12"), "a base that has it: ubuntu-24.04"),
        (make_platform(python="3.10"), "an older or newer release of it"),
        (make_jetson(python="3.10"), "an older or newer release of it"),
    ],
)
def test_only_bases_are_advised_on_which_the_cells_python_can_be_had(
    tmp_path: Path, platform: Platform, advice: str
) -> None:
    module = f"demo/_C.cpython-{platform.python.replace('.', '')}-aarch64-linux-gnu.so"
    files = {module: {**MODULE, "needed": ["libc.so.6"], "versions": {"libc.so.6": ["GLIBC_2.38"]}}}
    fix = only(make_case(tmp_path, {"demo": files}, platform=platform), "symbol-version").fix
    assert advice in fix
    assert fix.endswith(advice) or "(" in fix

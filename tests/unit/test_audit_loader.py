"""The loader on paper: where libraries are found, in which order, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from elf_files import AMD64, LIBC, make_base, make_binary, make_case
from factories import make_platform

from builder.audit.load_outcome import Dependent, MissingLibrary, Outdated, UnresolvedSymbol

if TYPE_CHECKING:
    from pathlib import Path

    from builder.audit.audit_context import AuditContext

MODULE = {"defined": ["PyInit__C"], "undefined": ["PyModule_Create2", "_Py_Dealloc"]}
TORCH = {
    "torch/_C.cpython-311-aarch64-linux-gnu.so": {**MODULE, "needed": ["libtorch.so"], "rpath": "$ORIGIN/lib"},
    "torch/lib/libtorch.so": {"soname": "libtorch.so", "needed": ["libc10.so"], "rpath": "$ORIGIN", "defined": ["at"]},
    "torch/lib/libc10.so": {"soname": "libc10.so", "defined": ["_ZN3c104makeEv"]},
    "torch/lib/libtorch_global_deps.so": {"soname": "libtorch_global_deps.so", "defined": ["everywhere"]},
}


def files(case: AuditContext) -> dict[str, str]:
    return {verdict.node.file: verdict.text for verdict in case.verdicts}


def one(folder: Path, library: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return the verdict of a module, with a library beside it if one is given."""
    contents: dict[str, Any] = {"demo/_C.abi3.so": {**MODULE, **changes}}
    if library:
        contents["demo.libs/libx.so.1"] = {"soname": "libx.so.1", **library}
    return files(make_case(folder, {"demo": contents}))["demo/_C.abi3.so"]


def test_a_module_that_needs_nothing(tmp_path: Path) -> None:
    assert one(tmp_path) == "loads"


def test_libraries_of_the_base_image(tmp_path: Path) -> None:
    assert (
        one(
            tmp_path, needed=["libc.so.6"], undefined=[("malloc", "GLIBC_2.17")], versions={"libc.so.6": ["GLIBC_2.17"]}
        )
        == "loads"
    )


@pytest.mark.parametrize("how", ["rpath", "runpath"])
@pytest.mark.parametrize(
    "path",
    [
        "$ORIGIN/../demo.libs",
        "${ORIGIN}/../demo.libs",
        "/nowhere:$ORIGIN/../demo.libs",
        "/opt/venv/lib/python3.11/site-packages/demo.libs",
    ],
)
def test_search_paths(tmp_path: Path, how: str, path: str) -> None:
    assert one(tmp_path, {"defined": ["x"]}, needed=["libx.so.1"], undefined=["x"], **{how: path}) == "loads"


@pytest.mark.parametrize("path", ["", "$ORIGIN", "demo.libs", ":", "$UNKNOWN/x"])
def test_search_paths_that_lead_nowhere(tmp_path: Path, path: str) -> None:
    said = one(tmp_path, {"defined": ["x"]}, needed=["libx.so.1"], runpath=path)
    assert said == "fails: libx.so.1: cannot open shared object file: No such file or directory"


def chain(how: str, middle: dict[str, Any]) -> dict[str, Any]:
    """Return a module that needs a library that needs another, which only the module's path leads to."""
    return {
        "demo/_C.abi3.so": {**MODULE, "needed": ["liba.so"], how: "$ORIGIN/a:$ORIGIN/b"},
        "demo/a/liba.so": {"soname": "liba.so", "needed": ["libb.so"], **middle},
        "demo/b/libb.so": {"soname": "libb.so"},
    }


@pytest.mark.parametrize(
    ("how", "middle", "loads"),
    [
        ("rpath", {}, True),
        ("runpath", {}, False),
        ("rpath", {"runpath": "/x"}, False),
        ("rpath", {"rpath": "/x"}, True),
    ],
)
def test_rpath_is_inherited_and_runpath_is_not(tmp_path: Path, how: str, middle: dict[str, Any], loads: bool) -> None:
    found = files(make_case(tmp_path, {"demo": chain(how, middle)}))["demo/_C.abi3.so"]
    assert found == ("loads" if loads else "fails: libb.so: cannot open shared object file: No such file or directory")


def test_a_runpath_beside_an_rpath_wins(tmp_path: Path) -> None:
    paths = {"rpath": "$ORIGIN/../demo.libs", "runpath": "/nowhere"}
    assert one(tmp_path, {}, needed=["libx.so.1"], **paths).startswith("fails: libx.so.1")


def test_links_and_names_of_the_base_image(tmp_path: Path) -> None:
    real = make_binary(f"{LIBC}/libfoo.so.1.2.3", soname="libfoo.so.1")
    base = make_base(real, links=(("/lib", "usr/lib"), (f"{LIBC}/libfoo.so", "libfoo.so.1.2.3")))
    for name in ("libfoo.so.1", "libfoo.so.1.2.3", "libfoo.so"):
        contents = {"demo/_C.so": {**MODULE, "needed": [name]}}
        assert files(make_case(tmp_path, {"demo": contents}, base=base)) == {"demo/_C.so": "loads"}


def test_ld_library_path_of_the_base_image(tmp_path: Path) -> None:
    base = make_base(make_binary("/opt/cuda/lib/libfoo.so.1"), library_path=("/opt/cuda/lib",))
    contents = {"demo/_C.so": {**MODULE, "needed": ["libfoo.so.1"]}}
    assert files(make_case(tmp_path, {"demo": contents}, base=base)) == {"demo/_C.so": "loads"}


def test_a_library_of_another_machine_is_passed_over(tmp_path: Path) -> None:
    contents = {
        "demo/_C.so": {**MODULE, "needed": ["libx.so"], "runpath": "$ORIGIN/wrong:$ORIGIN/right"},
        "demo/wrong/libx.so": {"machine": AMD64},
        "demo/right/libx.so": {"soname": "libx.so"},
    }
    found = files(make_case(tmp_path, {"demo": contents}))
    assert found["demo/_C.so"] == "loads"
    assert found["demo/wrong/libx.so"].startswith("fails: ")


def test_versions_that_the_library_does_not_have(tmp_path: Path) -> None:
    said = one(tmp_path, needed=["libstdc++.so.6"], versions={"libstdc++.so.6": ["GLIBCXX_3.4.32"]})
    assert said == "fails: version `GLIBCXX_3.4.32' not found (libstdc++.so.6, required by demo/_C.abi3.so)"


def test_a_library_without_versions_serves_whoever_asks_for_one(tmp_path: Path) -> None:
    wants = {"undefined": [("x", "X_9")], "versions": {"libx.so.1": ["X_9"]}, "runpath": "$ORIGIN/../demo.libs"}
    assert one(tmp_path, {"defined": ["x"]}, needed=["libx.so.1"], **wants) == "loads"


@pytest.mark.parametrize(
    ("library", "wanted", "loads"),
    [
        ({"defined": [("x", "X_1")], "defines": ["X_1"]}, "x", True),
        ({"defined": [("x", "X_1")], "defines": ["X_1"], "hidden": True}, "x", False),
        ({"defined": [("x", "X_1")], "defines": ["X_1"]}, ("x", "X_1"), True),
        ({"defined": [("x", "X_1")], "defines": ["X_1"], "hidden": True}, ("x", "X_1"), True),
        ({"defined": [("x", "X_1")], "defines": ["X_1", "X_2"]}, ("x", "X_2"), False),
    ],
)
def test_versions_of_symbols(tmp_path: Path, library: dict[str, Any], wanted: Any, loads: bool) -> None:
    versions = {"libx.so.1": [wanted[1]]} if isinstance(wanted, tuple) else None
    said = one(
        tmp_path, library, needed=["libx.so.1"], undefined=[wanted], versions=versions, rpath="$ORIGIN/../demo.libs"
    )
    assert said == (
        "loads" if loads else f"fails: undefined symbol: {'@'.join(wanted) if versions else wanted} (demo/_C.abi3.so)"
    )


def test_weak_symbols_may_stay_undefined(tmp_path: Path) -> None:
    assert one(tmp_path, weak=["nobody_has_it"]) == "loads"


def test_symbols_are_sought_in_what_is_loaded_with_the_file_only(tmp_path: Path) -> None:
    contents = {
        "demo/_C.so": {**MODULE, "undefined": ["x"]},
        "demo.libs/libx.so": {"soname": "libx.so", "defined": ["x"]},
    }
    (_, verdict) = make_case(tmp_path, {"demo": contents}).verdicts
    (failure,) = verdict.failures
    assert isinstance(failure, UnresolvedSymbol)
    assert [node.file for node in failure.definers] == ["demo.libs/libx.so"]


def test_a_library_of_the_module_that_fails_stops_the_module(tmp_path: Path) -> None:
    said = one(tmp_path, {"undefined": ["gone"]}, needed=["libx.so.1"], rpath="$ORIGIN/../demo.libs")
    assert said == "fails: undefined symbol: gone (demo.libs/libx.so.1)"


def test_what_python_itself_defines(tmp_path: Path) -> None:
    assert one(tmp_path, undefined=["PyList_New", "_PyObject_New", "Py_None"]) == "loads"
    assert "Pyramid" not in one(tmp_path, undefined=["PyList_New"])
    assert one(tmp_path, undefined=["_ZN2PyE"]) == "fails: undefined symbol: _ZN2PyE (demo/_C.abi3.so)"


def test_packages_of_apt_bring_libraries(tmp_path: Path) -> None:
    contents = {
        "demo/_C.so": {
            **MODULE,
            "needed": ["libnuma.so.1", "libgomp.so.1.0.0"],
            "undefined": ["numa_available", "GOMP_parallel"],
        }
    }
    without = make_case(tmp_path, {"demo": contents})
    assert {f.library for f in without.verdicts[0].failures if isinstance(f, MissingLibrary)} == {
        "libnuma.so.1",
        "libgomp.so.1.0.0",
    }
    with_both = make_case(tmp_path, {"demo": contents}, apt=("libnuma1=2.0.16-1", "libgomp1:arm64"))
    assert files(with_both) == {"demo/_C.so": "loads"}


def test_a_library_known_by_name_defines_what_is_known_of_it_only(tmp_path: Path) -> None:
    contents = {"demo/_C.so": {**MODULE, "needed": ["libnuma.so.1"], "undefined": ["numa_available", "_ZN3c106gone"]}}
    ((verdict),) = make_case(tmp_path, {"demo": contents}, apt=("libnuma1",)).verdicts
    assert [f.names for f in verdict.failures if isinstance(f, UnresolvedSymbol)] == [("_ZN3c106gone",)]


def test_python_brings_libraries_too(tmp_path: Path) -> None:
    contents = {"demo/_C.so": {**MODULE, "needed": ["libssl.so.3", "libz.so.1"]}}
    assert files(make_case(tmp_path, {"demo": contents})) == {"demo/_C.so": "loads"}


def test_the_nvidia_runtime_brings_the_driver(tmp_path: Path) -> None:
    contents = {"demo/_C.so": {**MODULE, "needed": ["libcuda.so.1"], "undefined": ["cuInit"]}}
    ((verdict),) = make_case(tmp_path, {"demo": contents}).verdicts
    assert (verdict.text, verdict.injected) == ("loads", ("libcuda.so.1",))


def test_an_import_of_torch_comes_first(tmp_path: Path) -> None:
    contents = {
        "demo/_C.so": {
            **MODULE,
            "needed": ["libtorch.so", "libc10.so"],
            "undefined": ["at", "_ZN3c104makeEv", "everywhere"],
        }
    }
    found = make_case(tmp_path, {"demo": contents, "torch": TORCH})
    assert set(files(found).values()) == {"loads"}
    demo = next(verdict for verdict in found.verdicts if verdict.node.file == "demo/_C.so")
    assert demo.by_import == ("libc10.so", "libtorch.so")
    alone = make_case(tmp_path, {"demo": contents})
    assert files(alone)["demo/_C.so"].startswith("fails: libtorch.so: cannot open")


def test_what_torch_loads_for_itself_alone_is_seen_by_itself_alone(tmp_path: Path) -> None:
    contents = {"demo/_C.so": {**MODULE, "undefined": ["at"]}}
    assert (
        files(make_case(tmp_path, {"demo": contents, "torch": TORCH}))["demo/_C.so"]
        == "fails: undefined symbol: at (demo/_C.so)"
    )


def test_a_torch_that_does_not_load_stops_what_needs_it(tmp_path: Path) -> None:
    broken = {
        **TORCH,
        "torch/lib/libc10.so": {"soname": "libc10.so", "needed": ["libgone.so"], "defined": ["_ZN3c104makeEv"]},
    }
    contents = {"demo/_C.so": {**MODULE, "needed": ["libc10.so"], "undefined": ["_ZN3c104makeEv"]}}
    found = {v.node.file: v for v in make_case(tmp_path, {"demo": contents, "torch": broken}).verdicts}
    assert found["demo/_C.so"].text == "fails: libc10.so: cannot open shared object file: No such file or directory"
    (failure,) = found["demo/_C.so"].failures
    assert isinstance(failure, Dependent)
    assert [c.library for c in failure.causes if isinstance(c, MissingLibrary)] == ["libgone.so"]
    assert found["torch/lib/libc10.so"].text.startswith("fails: libgone.so")


def test_packages_load_the_libraries_beside_their_modules(tmp_path: Path) -> None:
    contents = {
        "demo/lib/_demo.so": {**MODULE, "needed": ["libdemo.so"], "undefined": ["x"]},
        "demo/lib/libdemo.so": {"defined": ["x"]},
    }
    assert files(make_case(tmp_path, {"demo": contents})) == {
        "demo/lib/_demo.so": "loads",
        "demo/lib/libdemo.so": "loads",
    }


def test_a_library_beside_that_does_not_load_itself_is_no_help(tmp_path: Path) -> None:
    contents = {
        "demo/lib/_demo.so": {**MODULE, "needed": ["libdemo.so"]},
        "demo/lib/libdemo.so": {"needed": ["libsox.so.99"]},
    }
    assert files(make_case(tmp_path, {"demo": contents}))["demo/lib/_demo.so"].startswith("fails: libdemo.so")


def test_symbols_of_cxx_are_its_librarys_matter(tmp_path: Path) -> None:
    contents = {
        "demo/_C.so": {**MODULE, "needed": ["libstdc++.so.6"], "undefined": ["_ZSt21ios_base_library_initv"]},
        "demo/other.so": {**MODULE, "defined": ["_ZSt21ios_base_library_initv", "PyInit_other"]},
    }
    verdict = make_case(tmp_path, {"demo": contents}).verdicts[0]
    (failure,) = verdict.failures
    assert isinstance(failure, UnresolvedSymbol)
    assert failure.blamed is not None
    assert (failure.blamed.binary.soname, failure.definers) == ("libstdc++.so.6", ())


def test_a_symbol_of_a_version_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    said = {"needed": ["libc.so.6"], "undefined": [("new", "GLIBC_2.38")], "versions": {"libc.so.6": ["GLIBC_2.38"]}}
    ((verdict),) = make_case(tmp_path, {"demo": {"demo/_C.so": {**MODULE, **said}}}).verdicts
    assert [type(failure) for failure in verdict.failures] == [Outdated]


@pytest.mark.parametrize(
    ("version", "loads"),
    [("GLIBC_2.36", True), ("GLIBC_2.38", False), ("GLIBC_ABI_DT_RELR", True), ("GLIBC_PRIVATE", True)],
)
def test_without_the_base_image_the_platforms_ceilings_count(tmp_path: Path, version: str, loads: bool) -> None:
    contents = {"demo/_C.so": {**MODULE, "needed": ["libc.so.6"], "versions": {"libc.so.6": [version]}}}
    ((verdict),) = make_case(tmp_path, {"demo": contents}, unread="nobody answers").verdicts
    assert (verdict.text == "loads") is loads
    assert all(isinstance(f, Outdated) and f.assumed for f in verdict.failures)


def test_without_the_base_image_its_essential_libraries_are_taken_as_there(tmp_path: Path) -> None:
    wants = {
        "needed": ["libstdc++.so.6", "libgcc_s.so.1", "libselinux.so.1"],
        "undefined": ["_ZNSolsEi", "_ZTVSt9exception", "_ZdlPv"],
    }
    contents = {
        "demo/_C.so": {**MODULE, **wants},
        "demo/_D.so": {**MODULE, "needed": ["libstdc++.so.6"], "undefined": ["_ZN3c103newESt6vector"]},
    }
    found = files(make_case(tmp_path, {"demo": contents}, unread="nobody answers"))
    assert found == {"demo/_C.so": "loads", "demo/_D.so": "fails: undefined symbol: _ZN3c103newESt6vector (demo/_D.so)"}


def test_old_essentials_are_below_the_ceiling_of_their_platform(tmp_path: Path) -> None:
    platform = make_platform(glibc="2.31", distribution="ubuntu-20.04", python="3.11")
    contents = {"demo/_C.so": {**MODULE, "needed": ["libc.so.6"], "versions": {"libc.so.6": ["GLIBC_ABI_DT_RELR"]}}}
    found = files(make_case(tmp_path, {"demo": contents}, unread="x", platform=platform))
    assert found["demo/_C.so"].startswith("fails: version `GLIBC_ABI_DT_RELR' not found")


@pytest.mark.parametrize(
    ("stack", "glibc", "loads"), [(7, "2.41", False), (7, "2.40", True), (6, "2.41", True), (None, "2.41", True)]
)
def test_executable_stacks(tmp_path: Path, stack: int | None, glibc: str, loads: bool) -> None:
    libc = make_binary(f"{LIBC}/libc.so.6", soname="libc.so.6", defines=["GLIBC_2.17", f"GLIBC_{glibc}"])
    base = make_base(binaries=(libc,))
    said = files(make_case(tmp_path, {"demo": {"demo/_C.so": {**MODULE, "stack": stack}}}, base=base))["demo/_C.so"]
    why = "fails: demo/_C.so: cannot enable executable stack as shared object requires: Invalid argument"
    assert said == ("loads" if loads else why)


def test_executable_stacks_on_x86_64_are_the_default(tmp_path: Path) -> None:
    platform = make_platform(architecture="amd64", glibc="2.41")
    contents = {"demo": {"demo/_C.so": {**MODULE, "machine": AMD64}}}
    found = files(make_case(tmp_path, contents, platform=platform, unread="gone"))
    assert found["demo/_C.so"].startswith("fails: demo/_C.so: cannot enable executable stack")


def test_libraries_that_need_each_other(tmp_path: Path) -> None:
    contents = {
        "demo/liba.so": {
            "soname": "liba.so",
            "needed": ["libb.so"],
            "rpath": "$ORIGIN",
            "defined": ["a"],
            "undefined": ["b"],
        },
        "demo/libb.so": {
            "soname": "libb.so",
            "needed": ["liba.so"],
            "rpath": "$ORIGIN",
            "defined": ["b"],
            "undefined": ["a"],
        },
    }
    assert files(make_case(tmp_path, {"demo": contents})) == {"demo/liba.so": "loads", "demo/libb.so": "loads"}

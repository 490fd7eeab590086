"""What only the builder of a wheel can promise, and the audit of a built wheel in its cell; nothing runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from build_factory import CPU, make_build, make_target
from built_wheels import MODULE, MODULE_FACTS, raw_wheel
from elf_files import AMD64, make_base, make_binary, make_case, make_elf, make_fatbin
from factories import locked, make_jetson, make_lock, make_platform, make_wheel

from builder.audit.gather_facts import write_facts
from builder.audit.wheel_facts import READER
from builder.errors import AuditError
from builder.foundry.built_wheel_rules import check_glibc, check_gpu_code, check_runtime, check_suffixes, machine_paths
from builder.foundry.check_wheel import check_wheel
from builder.foundry.finish_wheel import finish_wheel
from builder.foundry.import_check import modules_of
from builder.foundry.loading_cell import loading_cell
from builder.model.locks import LockedBase

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import BuildTarget
    from builder.model.locks import Lock

NOWHERE = LockedBase(name="debian", used="127.0.0.1:1/debian:12", digest=f"sha256:{'0' * 64}")
PLATFORM = make_platform(python="3.12", glibc="2.39", glibcxx="3.4.33", distribution="ubuntu-24.04")


def cell_lock(session: Session, *wheels: Path, **changes: Any) -> Lock:
    """Return the lock of a cell whose wheels are in the wheelhouse, and the facts of its base image in the cache."""
    rows = [locked(path) for path in wheels]
    for row, path in zip(rows, wheels, strict=True):
        target = session.workspace.wheel(row.sha256, row.filename)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    base = session.workspace.facts / "00" / f"{'0' * 64}-arm64-{READER}"
    write_facts(base, make_base(distribution=("ubuntu-24.04",)))
    return make_lock(*rows, **{"base": NOWHERE, "platform": PLATFORM, **changes})


def refused(
    folder: Path, session: Session, files: dict[str, Any], target: BuildTarget = CPU, **more: Any
) -> AuditError:
    """Finish and check a wheel that must not pass; return the error."""
    build = make_build(target=target)
    built = finish_wheel(raw_wheel(folder, files), build, folder / "out")
    with pytest.raises(AuditError) as caught:
        check_wheel(folder / "out" / built.wheel.filename, build, session, more.pop("lock"), imports=False)
    assert caught.value.where == built.wheel.filename
    assert caught.value.hint
    return caught.value


def test_a_sound_wheel_passes(tmp_path: Path, session: Session) -> None:
    build = make_build(target=CPU)
    built = finish_wheel(raw_wheel(tmp_path), build, tmp_path / "out")
    result = check_wheel(tmp_path / "out" / built.wheel.filename, build, session, cell_lock(session), imports=False)
    assert (result.warnings, result.imports) == ((), None)


def test_a_build_without_gpu_code_is_told(tmp_path: Path, session: Session) -> None:
    build = make_build(target=make_target(torch=None))
    built = finish_wheel(raw_wheel(tmp_path), build, tmp_path / "out")
    result = check_wheel(tmp_path / "out" / built.wheel.filename, build, session, cell_lock(session), imports=False)
    assert result.warnings == ("it has no code for SM 8.7: the package may have been built without CUDA",)


def test_a_name_that_python_does_not_see() -> None:
    binary = make_binary("demo/_C.cpython-312-x86_64-linux-gnu.so")
    with pytest.raises(
        AuditError, match="is named for x86_64-linux-gnu, so Python does not find it on aarch64-linux-gnu"
    ):
        check_suffixes([binary], CPU)
    check_suffixes([make_binary(name) for name in (MODULE, "demo/_C.abi3.so", "demo/_C.so")], CPU)


def test_symbols_of_a_newer_c_library_are_named() -> None:
    facts: dict[str, Any] = {
        "undefined": [("__isoc23_strtol", "GLIBC_2.38"), ("malloc", "GLIBC_2.17")],
        "versions": {"libc.so.6": ["GLIBC_2.38", "GLIBC_2.17"]},
    }
    with pytest.raises(AuditError) as caught:
        check_glibc([make_binary("demo/_C.so", **facts)], make_build(target=make_target(glibc="2.35")))
    assert caught.value.message == "demo/_C.so needs a newer C library than 2.35, by __isoc23_strtol@GLIBC_2.38"
    check_glibc([make_binary("demo/_C.so", **facts)], make_build(target=make_target(glibc="2.38")))
    build = make_build(target=make_target(glibc="2.35"), without_sysroot="the registry does not answer")
    with pytest.raises(AuditError) as caught:
        check_glibc([make_binary("demo/_C.so", **facts)], build)
    assert "this machine's C library: the registry does not answer" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ((("sass", 80),), "has no SASS for SM 8.7: it has SASS 8.0"),
        ((("sass", 80), ("ptx", 80)), "has no SASS for SM 8.7: it has SASS 8.0, PTX 8.0"),
        ((("sass", 110),), "has no SASS for SM 8.7: it has SASS 11.0"),
        ((("sass", 87), ("sass", 80)), None),
    ],
)
def test_every_gpu_has_its_own_code(tmp_path: Path, codes: Any, message: str | None) -> None:
    case = make_case(tmp_path, {"demo": {"demo/_C.so": {"fatbin": make_fatbin(*codes)}}}, platform=make_jetson())
    if message is None:
        check_gpu_code(case, case.environment.nodes, make_target())
        return
    with pytest.raises(AuditError, match=message):
        check_gpu_code(case, case.environment.nodes, make_target())


def test_a_second_gpu_needs_code_too(tmp_path: Path) -> None:
    case = make_case(tmp_path, {"demo": {"demo/_C.so": {"fatbin": make_fatbin(("sass", 87))}}}, platform=make_jetson())
    with pytest.raises(AuditError, match=r"no SASS for SM 11\.0: it has SASS 8\.7"):
        check_gpu_code(case, case.environment.nodes, make_target(gpus=("8.7", "11.0")))


def gpu_library(**facts: Any) -> bytes:
    return make_elf(fatbin=make_fatbin(("sass", 87)), **facts) + b"\0libcuda.so.1\0"


@pytest.mark.parametrize(
    ("content", "cuda", "refusal"),
    [
        (gpu_library(), "12.4", True),
        (gpu_library(), "13.0", False),
        (gpu_library(needed=["libcudart.so.12"]), "12.4", False),
        (gpu_library(undefined=["__cudaRegisterFatBinary"]), "12.4", False),
        (make_elf(fatbin=make_fatbin(("sass", 87))), "12.4", False),
    ],
)
def test_the_runtime_of_cuda_12_stays_outside(tmp_path: Path, content: bytes, cuda: str, refusal: bool) -> None:
    wheel = make_wheel(tmp_path, files={"demo/_C.so": content})
    case = make_case(tmp_path / "case", {"demo": {"demo/_C.so": content}})
    binaries = [node.binary for node in case.environment.nodes]
    if not refusal:
        check_runtime(wheel, binaries, make_target(cuda=cuda))
        return
    with pytest.raises(AuditError, match=r"demo/_C\.so contains libcudart of CUDA 12\.4"):
        check_runtime(wheel, binaries, make_target(cuda=cuda))


def test_paths_of_the_machine_are_found_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.foundry.built_wheel_rules._BLOCK", 64)
    files: dict[str, str | bytes] = {
        "demo/a.so": bytes(60) + b"/root/cache/x",
        "demo/b.py": "'/root/other'",
        "demo/c.py": "",
    }
    wheel = make_wheel(tmp_path, files=files)
    assert list(machine_paths(wheel, ["/root/cache"])) == ["demo/a.so"]


def test_an_undefined_symbol_names_torch(tmp_path: Path, session: Session) -> None:
    torch = make_wheel(
        tmp_path / "torch",
        "torch",
        "2.11.0",
        "cp312-cp312-manylinux_2_28_aarch64",
        files={
            "torch/__init__.py": "",
            "torch/lib/libc10.so": make_elf(soname="libc10.so", defined=["_ZN3c105errorEv"]),
        },
    )
    lock = cell_lock(session, torch)
    module = {**MODULE_FACTS, "needed": ["libc10.so", "libc.so.6"], "undefined": ["_ZN3c105otherEv"], "versions": {}}
    module["runpath"] = "$ORIGIN/../torch/lib"
    target = make_target(gpus=(), cuda=None, torch=locked(torch))
    error = refused(tmp_path, session, {"demo/__init__.py": "", MODULE: module}, target, lock=lock)
    assert error.message == (f"undefined-symbol: {MODULE} needs a symbol that torch 2.11.0 does not have, c10::other()")


def test_a_missing_library_is_named(tmp_path: Path, session: Session) -> None:
    module = {**MODULE_FACTS, "needed": ["libopenblas.so.0", "libc.so.6"]}
    error = refused(tmp_path, session, {MODULE: module}, lock=cell_lock(session))
    assert error.message == f"missing-library: {MODULE} needs libopenblas.so.0, and nothing brings it"


def test_a_compiler_of_the_wrong_machine(tmp_path: Path, session: Session) -> None:
    module = {**MODULE_FACTS, "machine": AMD64}
    error = refused(tmp_path, session, {MODULE: module}, lock=cell_lock(session))
    assert error.message == (
        f"wrong-machine: {MODULE} is for x86_64, the image for aarch64, and the wheel has none for it"
    )
    assert "CC and CXX" in (error.hint or "")


def test_findings_about_other_wheels_are_left_to_the_audit(tmp_path: Path, session: Session) -> None:
    broken = make_wheel(
        tmp_path / "other",
        "other",
        "1.0",
        "cp312-cp312-linux_aarch64",
        files={"other/_x.cpython-312-aarch64-linux-gnu.so": make_elf(needed=["libgone.so.1"], defined=["PyInit__x"])},
    )
    build = make_build(target=CPU)
    built = finish_wheel(raw_wheel(tmp_path, requires=("other",)), build, tmp_path / "out")
    lock = cell_lock(session, broken)
    check_wheel(tmp_path / "out" / built.wheel.filename, build, session, lock, imports=False)


def test_a_cell_has_what_the_wheel_requires_and_no_more(tmp_path: Path, session: Session) -> None:
    parts = {"one": ("two",), "two": ("one", "absent"), "three": ()}
    wheels = [make_wheel(tmp_path / name, name, requires=requires) for name, requires in parts.items()]
    build = make_build(target=CPU)
    built = finish_wheel(raw_wheel(tmp_path, requires=("one", "demo")), build, tmp_path / "out")
    cell = loading_cell(tmp_path / "out" / built.wheel.filename, build, cell_lock(session, *wheels), session)
    assert [wheel.name for wheel in cell.others] == ["one", "two"]


def test_the_modules_to_import(tmp_path: Path, session: Session) -> None:
    files: dict[str, Any] = {
        "demo/__init__.py": "",
        MODULE: MODULE_FACTS,
        "demo/tests/_t.so": {**MODULE_FACTS, "defined": ["PyInit__t"]},
        "demo/sub/_d.abi3.so": {**MODULE_FACTS, "defined": ["PyInit__d"], "undefined": [], "versions": {}},
        "demo/lib/libhelper.so": {"soname": "libhelper.so"},
        "single.py": "",
        "tests/__init__.py": "",
        "data/readme.txt": "",
        "_top.cpython-312-aarch64-linux-gnu.so": {**MODULE_FACTS, "defined": ["PyInit__top"]},
    }
    build = make_build(target=CPU)
    built = finish_wheel(raw_wheel(tmp_path, files), build, tmp_path / "out")
    cell = loading_cell(tmp_path / "out" / built.wheel.filename, build, cell_lock(session), session)
    assert modules_of(cell) == ("demo", "single", "_top", "demo._C", "demo.sub._d")

"""Wheels without the code for other GPUs, and the command that writes them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel
from gpu_code import make_cubin
from wheel_contents import check_record, contents_of

from builder.audit.byte_source import MalformedError
from builder.audit.slim_tables import code_sections, slim_tables
from builder.errors import UsageError
from builder.foundry.wheel_names import wheel_name
from builder.image.slim.package_rules import refusal
from builder.image.slim.slim_wheel import labelled_name, slim_wheel
from builder.model.slimming import SlimRules
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Call = Callable[..., tuple[int, str, str]]

ORIN = SlimRules(sms=(87,), same_major=True)
LIBRARY = make_library([make_container(make_entry("sm_80", size=900), make_entry("sm_90", size=300_000))])
NATIVE = make_library([make_container(make_entry("sm_87"))])


def gpu_wheel(folder: Path, name: str = "demo", files: Mapping[str, str | bytes] | None = None) -> Path:
    contents: dict[str, str | bytes] = {
        "demo/__init__.py": "x = 1\n" * 100,
        "demo/_C.so": LIBRARY,
        "demo-1.0.data/scripts/run": "#!python\n",
    }
    return make_wheel(folder, name, files={**contents, **(files or {})})


def test_a_wheel_keeps_all_but_the_code(tmp_path: Path) -> None:
    wheel, target = gpu_wheel(tmp_path), tmp_path / "out" / "slim.whl"
    report = slim_wheel(wheel, target, ORIN)
    before, after = contents_of(wheel), contents_of(target)
    assert list(before) == list(after)
    assert {name for name in before if before[name] != after[name]} == {"demo/_C.so", "demo-1.0.dist-info/RECORD"}
    assert report.slimmed_sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert (report.size, report.slimmed_size) == (wheel.stat().st_size, target.stat().st_size)
    assert [library.path for library in report.libraries] == ["demo/_C.so"]
    check_record(target)
    assert sorted(target.parent.iterdir()) == [target]


def test_the_same_wheel_gives_the_same_bytes(tmp_path: Path) -> None:
    wheel = gpu_wheel(tmp_path, files={f"demo/_{index}.so": LIBRARY for index in range(6)})
    targets = [tmp_path / f"{index}.whl" for index in range(3)]
    for target in targets:
        slim_wheel(wheel, target, ORIN, label="sm87")
    assert len({target.read_bytes() for target in targets}) == 1


def test_a_label_names_the_gpus(tmp_path: Path) -> None:
    wheel = gpu_wheel(tmp_path)
    target = tmp_path / labelled_name(wheel, "sm87")
    slim_wheel(wheel, target, ORIN, label="sm87")
    contents = contents_of(target)
    assert target.name == "demo-1.0+sm87-py3-none-any.whl"
    assert b"\nVersion: 1.0+sm87\n" in contents["demo-1.0+sm87.dist-info/METADATA"]
    assert "demo-1.0+sm87.data/scripts/run" in contents
    assert not [name for name in contents if name.startswith("demo-1.0.")]
    check_record(target)


def test_a_label_after_another(tmp_path: Path) -> None:
    wheel = tmp_path / "torch-2.11.0+cu130-cp312-cp312-manylinux_2_28_aarch64.whl"
    assert labelled_name(wheel, "sm87") == "torch-2.11.0+cu130.sm87-cp312-cp312-manylinux_2_28_aarch64.whl"


def test_signatures_of_the_old_record_go(tmp_path: Path) -> None:
    wheel = gpu_wheel(tmp_path)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("demo-1.0.dist-info/RECORD.jws", "{}")
    slim_wheel(wheel, tmp_path / "slim.whl", ORIN)
    assert "demo-1.0.dist-info/RECORD.jws" not in contents_of(tmp_path / "slim.whl")


@pytest.mark.parametrize(
    ("files", "reason"),
    [({"demo/_C.so": NATIVE}, "it has no code for other GPUs"), ({"demo/_C.so": b"text"}, "it has no GPU code")],
)
def test_nothing_is_written_if_nothing_can_go(files: dict[str, bytes], reason: str, tmp_path: Path) -> None:
    wheel = gpu_wheel(tmp_path, files=files)
    assert slim_wheel(wheel, tmp_path / "slim.whl", ORIN).skipped == reason
    assert not (tmp_path / "slim.whl").exists()


def test_cubins_that_are_files_go_as_a_whole(tmp_path: Path) -> None:
    folder = "flashinfer_cubin/cubins/gemm"
    cubins = {
        f"{folder}/a.cubin": make_cubin("k", sm=100, options="-arch=sm_100f"),
        f"{folder}/b.cubin": make_cubin("k", sm=103, accelerated=True),
        f"{folder}/c.cubin": b"\x7fELF, but no cubin",
        f"{folder}/checksums.txt": b"12 a.cubin",
    }
    wheel = make_wheel(tmp_path, "flashinfer-cubin", files=cubins)
    report = slim_wheel(wheel, tmp_path / "slim.whl", ORIN)
    (row,) = report.libraries
    assert (row.path, row.method) == ("flashinfer_cubin/cubins/*.cubin", "files")
    assert [(amount.target, amount.entries) for amount in row.removed] == [("sm_100f", 1), ("sm_103a", 1)]
    assert [(amount.target, amount.entries) for amount in row.retained] == [("other", 1)]
    assert row.after == len(cubins[f"{folder}/c.cubin"])
    contents = contents_of(tmp_path / "slim.whl")
    assert set(contents) & set(cubins) == {f"{folder}/c.cubin", f"{folder}/checksums.txt"}
    check_record(tmp_path / "slim.whl")
    blackwell = slim_wheel(wheel, tmp_path / "103.whl", SlimRules(sms=(103,), same_major=True))
    assert blackwell.skipped == "it has no code for other GPUs"
    other = make_wheel(tmp_path, "other-cubins", files=cubins)
    assert slim_wheel(other, tmp_path / "other.whl", ORIN).skipped == "it has no GPU code"


def test_a_library_that_cannot_be_read_stays(tmp_path: Path) -> None:
    damaged = bytearray(LIBRARY)
    at = damaged.index((0xBA55ED50).to_bytes(4, "little"))
    damaged[at + 8 : at + 16] = b"\xff" * 8
    wheel = gpu_wheel(tmp_path, files={"demo/_bad.so": bytes(damaged)})
    libraries = {library.path: library for library in slim_wheel(wheel, tmp_path / "slim.whl", ORIN).libraries}
    assert libraries["demo/_bad.so"].note == "its GPU code is cut off"
    assert contents_of(tmp_path / "slim.whl")["demo/_bad.so"] == bytes(damaged)


def test_a_damaged_wheel_is_refused_and_nothing_stays_behind(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo/_C.so": LIBRARY}, stored=True)
    data = bytearray(wheel.read_bytes())
    at = data.index((0xBA55ED50).to_bytes(4, "little"))
    data[at + 200] ^= 1
    wheel.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(MalformedError, match="damaged"):
        slim_wheel(wheel, tmp_path / "out" / "slim.whl", ORIN)
    assert list((tmp_path / "out").iterdir()) == []


def test_rules_of_packages() -> None:
    def reason(package: str, version: str = "1.0", **rules: Any) -> str:
        wheel = wheel_name(f"{package}-{version}-py3-none-any.whl")
        return refusal(wheel, SlimRules(sms=(87,), same_major=True, **rules)) or ""

    assert reason("torch") == reason("torch", "1.0+cu130") == reason("torch", "1.0+awesm87") == ""
    assert "licence" in reason("nvidia_cublas")
    assert reason("nvidia_cublas", include=("nvidia-*",)) == ""
    assert reason("torch", exclude=("to*",)) == "the rules exclude it"
    assert reason("torch", "1.0+cu130.sm87.sm110") == "its label sm87.sm110 says that other code is gone already"
    assert code_sections("nvidia-cublas", "nvidia/cu13/lib/libcublasLt.so.13") == {".cask_resource": "container"}
    assert code_sections("torch", "torch/lib/libtorch_cuda.so") == {}
    assert 87 in slim_tables().gpus


def test_not_a_wheels_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a wheel's name"):
        labelled_name(tmp_path / "demo.zip", "sm87")


@pytest.fixture
def slim(command_line: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command_line("slim", *arguments)


def test_the_command_writes_a_wheel(slim: Call, tmp_path: Path) -> None:
    wheel = gpu_wheel(tmp_path / "in")
    code, out, _ = slim(str(wheel), "--sm", "110+8.7", "--sm", "87", "--l4t", "39.2.0", "--output", "out")
    assert code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo-1.0+sm87.sm110-py3-none-any.whl"]
    assert "demo/_C.so" in out
    assert "removed: sm_90 (1, " in out


def test_the_command_as_json(slim: Call, tmp_path: Path) -> None:
    wheels = [gpu_wheel(tmp_path / "in"), gpu_wheel(tmp_path / "in", "nvidia-demo")]
    code, out, err = slim(*map(str, wheels), "--sm", "8.7", "--json")
    result = json.loads(out)
    assert code == 0
    assert [wheel["slimmed_wheel"] for wheel in result["wheels"]] == [
        "demo-1.0+sm87-py3-none-any.whl",
        "nvidia_demo-1.0-py3-none-any.whl",
    ]
    assert "licence" in result["wheels"][1]["skipped"]
    assert "--l4t" in result["note"]
    assert "--l4t" in err


def test_nvidias_wheels_on_request(slim: Call, tmp_path: Path) -> None:
    wheel = gpu_wheel(tmp_path / "in", "nvidia-demo")
    code, _, err = slim(str(wheel), "--sm", "9.0")
    assert (code, "--nvidia" in err) == (2, True)
    assert slim(str(wheel), "--sm", "9.0", "--nvidia")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in/demo-1.0-py3-none-any.whl", "--sm", "sm_87"), "not the compute capability of a GPU such as 8.7"),
        (("in/demo-1.0-py3-none-any.whl", "--sm", "9.9"), "not the compute capability of a GPU"),
        (("in/demo-1.0-py3-none-any.whl", "--sm", "8.7", "--l4t", "39.2"), "--l4t: unknown L4T release"),
        (("in/demo-1.0-py3-none-any.whl", "--sm", "8.8", "--l4t", "39.2.0"), "no board of L4T 39.2.0 has SM 8.8"),
        (("x-1-py3-none-linux_x86_64.whl", "--sm", "8.7", "--l4t", "39.2.0"), "is for linux_x86_64, and L4T 39.2.0"),
        (("demo-1.0+sm87-py3-none-any.whl", "--sm", "8.7"), "label sm87 says that other code is gone already"),
        (("in/demo-1.0-py3-none-any.whl",), "Missing option '--sm'"),
        (("in", "--sm", "8.7"), "this is a folder"),
        (("nowhere-1.0-py3-none-any.whl", "--sm", "8.7"), "no such file"),
        (("notes.txt", "--sm", "8.7"), "not a wheel's name"),
        (("text-1.0-py3-none-any.whl", "--sm", "8.7"), "not a wheel that jbuild can read"),
        (("plain-1.0-py3-none-any.whl", "--sm", "8.7"), "no wheel was written: it has no GPU code"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, slim: Call, tmp_path: Path) -> None:
    gpu_wheel(tmp_path / "in")
    make_wheel(tmp_path, "plain")
    texts = (
        "notes.txt",
        "text-1.0-py3-none-any.whl",
        "x-1-py3-none-linux_x86_64.whl",
        "demo-1.0+sm87-py3-none-any.whl",
    )
    for name in (*texts, "demo-1.0+sm87-py3-none-any.whl"):
        (tmp_path / name).write_text("text")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = slim(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written(slim: Call, tmp_path: Path) -> None:
    wheel = gpu_wheel(tmp_path / "in")
    (tmp_path / "out").write_text("a file")
    code, _, err = slim(str(wheel), "--sm", "8.7", "--output", "out/deeper")
    assert code == 12
    assert "cannot write" in err

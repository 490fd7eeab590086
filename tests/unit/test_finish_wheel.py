"""Finished wheels: names, documents, bytes that depend on the inputs alone; and wheels that cannot be finished."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from build_factory import CPU, GCC, SDIST, make_build
from built_wheels import CROSS, MODULE, MODULE_FACTS, raw_wheel
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from installer.sources import WheelFile
from packageurl import PackageURL
from wheel_contents import check_record, contents_of

from builder.errors import BuildError
from builder.foundry.finish_wheel import finish_wheel
from builder.foundry.wheel_agreement import differing_files, disagreement
from builder.foundry.wheel_bill import stated_build
from builder.model.builds import BuildSource
from builder.publish.bill.embedded_bills import read_bill

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.builds import LockedBuild


def finished(raw: Path, folder: Path, build: LockedBuild | None = None) -> Path:
    built = finish_wheel(raw, build or make_build(), folder)
    assert built.origin == "built"
    assert built.fingerprint == (build or make_build()).fingerprint
    return folder / built.wheel.filename


def inside(wheel: Path, name: str) -> bytes:
    (content,) = [content for path, content in contents_of(wheel).items() if path.endswith(f".dist-info/{name}")]
    return content


def test_a_wheel_is_named_by_what_it_proves(tmp_path: Path) -> None:
    build = make_build()
    wheel = finished(raw_wheel(tmp_path, requires=("torch",)), tmp_path / "out", build)
    label = f"jbuild.cu130.torch2.11.sm87.{build.fingerprint[:8]}"
    assert wheel.name == f"demo-1.0+{label}-cp312-cp312-manylinux_2_17_aarch64.whl"
    folder = f"demo-1.0+{label}.dist-info"
    assert f"Version: 1.0+{label}\n" in inside(wheel, "METADATA").decode()
    assert inside(wheel, "WHEEL").decode().endswith("Root-Is-Purelib: true\nTag: cp312-cp312-manylinux_2_17_aarch64\n")
    assert list(contents_of(wheel))[-1] == f"{folder}/RECORD"
    check_record(wheel)
    with WheelFile.open(wheel) as source:
        source.validate_record()


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    """The backend's order, times, compression and modes beyond the execute bit make no difference."""
    raw = raw_wheel(tmp_path / "a" / "deep" / "folder")
    other = tmp_path / "b" / raw.name
    other.parent.mkdir()
    with zipfile.ZipFile(raw) as archive, zipfile.ZipFile(other, "w") as changed:
        for entry in reversed(archive.infolist()):
            copy = zipfile.ZipInfo(entry.filename, date_time=(2031, 5, 6, 7, 8, 10))
            copy.external_attr = 0o100600 << 16
            changed.writestr(copy, archive.read(entry), zipfile.ZIP_STORED)
    one, two = finished(raw, tmp_path / "one"), finished(other, tmp_path / "two" / "more")
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()
    assert finished(raw, tmp_path / "one").read_bytes() == one.read_bytes()


def test_no_path_of_the_machine_gets_in(tmp_path: Path) -> None:
    wheel = finished(raw_wheel(tmp_path), tmp_path / "out")
    assert not any(str(tmp_path).encode() in content for content in contents_of(wheel).values())


def test_mirrors_leave_no_trace(tmp_path: Path) -> None:
    mirrored = BuildSource(kind="sdist", location="https://mirror.example/x/demo-1.0.tar.gz", sha256=SDIST.sha256)
    raw = raw_wheel(tmp_path)
    one, two = finished(raw, tmp_path / "1"), finished(raw, tmp_path / "2", make_build(source=mirrored))
    assert one.read_bytes() == two.read_bytes()


def test_programs_stay_programs(tmp_path: Path) -> None:
    files: dict[str, Any] = {MODULE: MODULE_FACTS, "demo-1.0.data/scripts/run": "#!python\n"}
    wheel = finished(raw_wheel(tmp_path, files, executable=("demo-1.0.data/scripts/run",)), tmp_path / "out")
    with zipfile.ZipFile(wheel) as archive:
        modes = {entry.filename.rpartition("/")[2]: entry.external_attr >> 16 for entry in archive.infolist()}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert modes.pop("run") == 0o100755
    assert set(modes.values()) == {0o100644}


def test_the_bill_is_valid_and_names_all_inputs(tmp_path: Path) -> None:
    build = make_build()
    text = inside(finished(raw_wheel(tmp_path), tmp_path / "out", build), "sboms/jbuild.cdx.json").decode()
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    bill = json.loads(text)
    subject = bill["metadata"]["component"]
    (ancestor,) = subject["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": SDIST.sha256}]
    assert subject["pedigree"]["patches"] == [{"type": "unofficial", "diff": {"url": "patches/demo.patch"}}]
    assert build.patches[0].sha256 in subject["pedigree"]["notes"]
    assert PackageURL.from_string(subject["purl"]).version == f"1.0+jbuild.cu130.torch2.11.sm87.{build.fingerprint[:8]}"
    assert {"name": "io.jbuild.compiler", "value": "gcc 12.2.0-14cross1"} in subject["properties"]
    components = {component["name"]: component for component in bill["components"]}
    assert set(components) == {"setuptools", "torch", GCC}
    assert {component["scope"] for component in components.values()} == {"excluded"}


def test_the_bill_of_an_image_reads_it(tmp_path: Path) -> None:
    """Tools of the build are not in the image; the source and the patches stay known."""
    embedded = read_bill(inside(finished(raw_wheel(tmp_path), tmp_path / "out"), "sboms/jbuild.cdx.json"), "demo")
    assert embedded.components == {}
    assert [row["purl"] for row in embedded.pedigree["ancestors"]] == ["pkg:pypi/demo@1.0"]
    assert embedded.pedigree["patches"] == [{"type": "unofficial", "diff": {"url": "patches/demo.patch"}}]


def test_the_provenance_states_inputs_and_files(tmp_path: Path) -> None:
    build = make_build()
    wheel = finished(raw_wheel(tmp_path), tmp_path / "out", build)
    statement = json.loads(inside(wheel, "provenance.intoto.json"))
    definition = statement["predicate"]["buildDefinition"]
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [subject["name"] for subject in statement["subject"]] == [MODULE]
    assert definition["externalParameters"]["environment"] == {"DEMO_FORCE_BUILD": "TRUE"}
    assert definition["internalParameters"]["compiler"] == "gcc 12.2.0-14cross1"
    assert build.target.torch
    names = [material["name"] for material in definition["resolvedDependencies"]]
    assert names == [
        "demo",
        "patches/demo.patch",
        "setuptools-80.9.0-py3-none-any.whl",
        build.target.torch.filename,
        GCC,
    ]
    assert disagreement(wheel, build) is None


def test_a_repository_is_named_with_its_commit(tmp_path: Path) -> None:
    source = BuildSource(kind="git", location="https://user:secret@git.example/demo", sha256="b" * 64, commit="c" * 40)
    wheel = finished(raw_wheel(tmp_path), tmp_path / "out", make_build(source=source))
    text = inside(wheel, "provenance.intoto.json").decode()
    assert f"git+https://git.example/demo@{'c' * 40}" in text
    assert "secret" not in text
    assert "secret" not in inside(wheel, "sboms/jbuild.cdx.json").decode()


def test_a_second_bill_stays(tmp_path: Path) -> None:
    files: dict[str, Any] = {MODULE: MODULE_FACTS, "demo-1.0.dist-info/sboms/other.cdx.json": "{}"}
    names = contents_of(finished(raw_wheel(tmp_path, files), tmp_path / "out"))
    assert len([name for name in names if "/sboms/" in name]) == 2


def test_signatures_of_the_old_record_go(tmp_path: Path) -> None:
    files: dict[str, Any] = {MODULE: MODULE_FACTS, "demo-1.0.dist-info/RECORD.jws": "x"}
    assert not [n for n in contents_of(finished(raw_wheel(tmp_path, files), tmp_path / "out")) if n.endswith("jws")]


def test_a_pure_wheel_is_for_any_platform(tmp_path: Path) -> None:
    wheel = finished(
        raw_wheel(tmp_path, {"demo/__init__.py": ""}, "py3-none-any"), tmp_path / "out", make_build(target=CPU)
    )
    assert wheel.name.endswith("-py3-none-any.whl")


def test_a_local_label_of_the_package_stays(tmp_path: Path) -> None:
    wheel = finished(raw_wheel(tmp_path, version="1.0+cu12torch2.8"), tmp_path / "out")
    assert wheel.name.startswith("demo-1.0+cu12torch2.8.jbuild.cu130.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.0.0"}, "the build of demo 1.0 wrote demo 0.0.0"),
        ({"name": "other"}, "the build of demo 1.0 wrote other 1.0"),
        ({"files": {"../escape.py": "x"}}, "../escape.py reaches outside the environment"),
        ({"files": {MODULE: b"\x7fELF" + bytes(10)}}, f"{MODULE} not an ELF file, or cut off"),
    ],
)
def test_a_wheel_that_is_not_the_build(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    raw = raw_wheel(tmp_path, **changes)
    with pytest.raises(BuildError) as caught:
        finish_wheel(raw, make_build(), tmp_path / "out")
    assert message in caught.value.message
    assert caught.value.hint
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_wheel_that_is_cut_off(tmp_path: Path, keep: float) -> None:
    raw = raw_wheel(tmp_path)
    raw.write_bytes(raw.read_bytes()[: int(raw.stat().st_size * keep)])
    with pytest.raises(BuildError, match="the built wheel is damaged"):
        finish_wheel(raw, make_build(), tmp_path / "out")


def test_a_member_with_other_bytes(tmp_path: Path) -> None:
    raw = raw_wheel(tmp_path, stored=True)
    content = raw.read_bytes()
    raw.write_bytes(content.replace(b"VERSION", b"VERSIOM").replace(b"Generator: tests", b"Generator: tesst"))
    with pytest.raises(BuildError, match="WHEEL is damaged"):
        finish_wheel(raw, make_build(), tmp_path / "out")


def test_a_wheel_without_metadata(tmp_path: Path) -> None:
    raw = tmp_path / f"demo-1.0-{CROSS}.whl"
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("demo/__init__.py", "")
    with pytest.raises(BuildError, match="0 folders with a WHEEL file"):
        finish_wheel(raw, make_build(), tmp_path / "out")


def test_agreement_with_other_inputs(tmp_path: Path) -> None:
    wheel = finished(raw_wheel(tmp_path), tmp_path / "out")
    other = make_build(compiler="gcc 13")
    assert (disagreement(wheel, other) or "").startswith("the provenance inside the wheel states other inputs: ")
    assert disagreement(raw_wheel(tmp_path / "raw"), other) == "the wheel has no provenance of jbuild's builds"


def test_a_file_that_was_exchanged_is_found(tmp_path: Path) -> None:
    wheel = finished(raw_wheel(tmp_path), tmp_path / "out")
    forged = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(forged, "w") as changed:
        for entry in archive.infolist():
            changed.writestr(entry, archive.read(entry) + (b"\0" if entry.filename == MODULE else b""))
    assert disagreement(forged, make_build()) == f"{MODULE} is another file than its provenance states"
    assert differing_files(wheel, forged) == [MODULE]
    assert differing_files(wheel, wheel) == []


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"predicate": {"buildDefinition": {"buildType": 1}}}'])
def test_what_is_no_provenance(text: bytes) -> None:
    assert stated_build(text) is None

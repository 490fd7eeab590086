"""One recipe's cells for several GPUs: each image has code of its own, layers are shared, and the recipe decides."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from elf_files import layer
from factories import make_wheel
from index_server import running_index
from project import Project, make_wheels

from builder.host.config import Config
from builder.image.oci.layout import open_blob, read_image, unpacked
from builder.remote.registry.registry_client import OCI_MANIFEST, connect
from builder.remote.registry.upload import BytesBlob
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from index_server import Index
    from servers import Registry

    from builder.model.images import Image


CELLS = {"v1_0-r39_2_0-sm87": 1, "v1_0-r39_2_0-sm110": 1, "v1_0-r39_2_0-sm87-110": 2}
ORIN = "v1_0-r39_2_0-sm87"
LIBRARY = make_library((make_container(*(make_entry(f"sm_{sm}", size=60_000) for sm in (80, 87, 90, 110, 120))),))
_WAIVED = ("other-distribution", "wrong-machine", "gpu-code", "missing-library", "undefined-symbol", "tag-lies")
# BuildKit would run the packages' step under emulation; here is nothing to install.
_TEMPLATE = "{% block system %}{% endblock %}"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with a package and one of NVIDIA's, both with GPU code."""
    folder = tmp_path_factory.mktemp("gpu-index")
    make_wheels(folder)
    for name, module in (("kernels", "kernels"), ("nvidia-blas", "nvidia")):
        make_wheel(folder, name, files={f"{module}/_C.so": LIBRARY, f"{module}/__init__.py": ""})
    with running_index(folder) as running:
        yield running


@pytest.fixture(scope="module")
def base(shared_registry: Registry) -> str:
    """A base image for arm64 that has nothing but a name."""
    client = connect(shared_registry.host, Config())
    content = layer(("etc/os-release", b'ID=ubuntu\nVERSION_ID="24.04"\n'))

    def sent(data: bytes, media_type: str) -> dict[str, Any]:
        client.send_blob("base/arm", BytesBlob(data))
        return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}

    diff_ids = [f"sha256:{hashlib.sha256(content).hexdigest()}"]
    config = {"architecture": "arm64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": sent(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [sent(gzip.compress(content, mtime=0), _LAYER)],
    }
    client.put_manifest("base/arm", "1", json.dumps(manifest).encode(), OCI_MANIFEST)
    return f"{shared_registry.host}/base/arm:1"


@pytest.fixture(scope="module")
def make_gpu_project(make_project: Callable[..., Project], index: Index, base: str) -> Callable[..., Project]:
    """Give a function that makes projects with one cell for each choice of GPUs."""

    def make(image: dict[str, Any] | None = None) -> Project:
        changes: dict[str, Any] = {
            "architecture": "arm64",
            "matrix": {"vllm": ["1.0"], "l4t": ["39.2.0"], "sm": ["8.7", "11.0", "8.7+11.0"]},
            "base": {"image": base},
            "packages": {"requires": ["vllm=={vllm}", "kernels", "nvidia-blas"], "indexes": []},
            "audit": {"waive": [{"rule": rule, "reason": "a stand-in"} for rule in _WAIVED]},
            **({"image": image} if image else {}),
        }
        project = make_project(index=index.host, **changes)
        project.override(_TEMPLATE)
        return project

    return make


@pytest.fixture(scope="module")
def built(make_gpu_project: Callable[..., Project]) -> Project:
    """A project whose cells are built, each for its GPUs."""
    project = make_gpu_project()
    done = project.run("build", "--json")
    assert done.code == 0, done.stderr
    return project


@pytest.fixture
def mine(built: Project, tmp_path: Path) -> Project:
    """A copy of it, with which a test may do what it wants."""
    return built.copy(tmp_path / "work")


def record(project: Project, cell: str, stage: str) -> dict[str, Any]:
    path = project.folder / "build" / project.name / cell / f"{stage}.json"
    content: dict[str, Any] = json.loads(path.read_text())["record"]
    return content


def digest_of(project: Project, cell: str) -> str:
    return str(record(project, cell, "build")["manifest"]["digest"])


def packages_in(image: Image, layout: Path) -> dict[str, bytes]:
    """Return the files of the environment's packages in an image."""
    files = {}
    for row in image.layers:
        with open_blob(layout, row.digest) as raw, unpacked(raw, row.media_type) as stream:
            archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content and "site-packages/" in member.name:
                    files[member.name.partition("site-packages/")[2]] = content.read()
    return files


def built_packages(project: Project, cell: str) -> dict[str, bytes]:
    layout = project.cache / "images"
    return packages_in(read_image(layout, digest_of(project, cell), ""), layout)


def check_records(files: dict[str, bytes]) -> int:
    checked = 0
    for record_name in [name for name in files if name.endswith(".dist-info/RECORD")]:
        for path, digest, size in csv.reader(io.StringIO(files[record_name].decode())):
            if digest and path in files:
                expected = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
                assert (digest, size) == (f"sha256={expected}", str(len(files[path]))), path
                checked += 1
    return checked


@pytest.mark.parametrize(("cell", "kinds"), list(CELLS.items()))
def test_image_has_the_code_of_its_gpus_and_a_true_record(built: Project, cell: str, kinds: int) -> None:
    files = built_packages(built, cell)
    assert check_records(files) > 10
    assert files["nvidia/_C.so"] == LIBRARY
    # L4T 39.2 runs code for 8.0 on 8.7.
    remaining = kinds + (1 if "87" in cell else 0)
    assert len(LIBRARY) - len(files["kernels/_C.so"]) > (5 - remaining) * 55_000
    report = json.loads(files["kernels-1.0.dist-info/jbuild-slim.json"])
    (slimmed,) = record(built, cell, "render")["slimmed"]
    assert (
        (report["package"], report["sha256"]) == (slimmed["name"], slimmed["sha256"]) == ("kernels", report["sha256"])
    )
    labels = dict(record(built, cell, "build")["labels"])
    assert labels["io.jbuild.slim"] == f"kernels={len(LIBRARY)}>{len(LIBRARY) - slimmed['removed']}"


def test_the_audit_names_the_code_of_the_image(built: Project) -> None:
    (orin,) = record(built, ORIN, "audit")["gpu"].values()
    assert orin["kernels 1.0/kernels/_C.so"]["sass"] == [80, 87]
    assert orin["nvidia-blas 1.0/nvidia/_C.so"]["sass"] == [80, 87, 90, 110, 120]


def test_nothing_is_slimmed_again(mine: Project) -> None:
    shutil.rmtree(mine.folder / "build")
    packed = mine.cache / "packed"
    before = {path.name: path.stat().st_ino for path in packed.glob("??/*")}
    done = mine.run("build", "--json")
    assert done.code == 0, done.stderr
    assert {path.name: path.stat().st_ino for path in packed.glob("??/*")} == before


def test_cells_without_slimming_have_the_image_of_ever(mine: Project, make_gpu_project: Callable[..., Project]) -> None:
    """Without slimming, an image is that of a recipe from before: nothing of it tells of slimming."""
    mine.recipe["image"] = {"slim": False}
    mine.write()
    lock = mine.folder / "locks" / mine.name / f"pylock.{ORIN}.toml"
    before = lock.read_text(), digest_of(mine, ORIN)
    done = mine.run("build", "--cell", ORIN, "--json")
    assert done.code == 0, done.stderr
    assert lock.read_text() == before[0]
    whole = digest_of(mine, ORIN)
    assert whole != before[1]
    assert "io.jbuild.slim" not in dict(record(mine, ORIN, "build")["labels"])
    files = built_packages(mine, ORIN)
    assert files["kernels/_C.so"] == LIBRARY
    assert not [name for name in files if name.endswith("jbuild-slim.json")]
    mine.recipe["image"] = {"slim-packages": {"*": False}}
    mine.write()
    assert mine.run("build", "--cell", ORIN).code == 0
    assert digest_of(mine, ORIN) == whole
    del mine.recipe["image"]
    mine.write()
    assert mine.run("build", "--cell", ORIN).code == 0
    assert digest_of(mine, ORIN) == before[1]


def test_files_that_the_recipe_excludes_are_not_in_the_image(mine: Project) -> None:
    lock = mine.folder / "locks" / mine.name / f"pylock.{ORIN}.toml"
    before = lock.read_text(), digest_of(mine, ORIN)
    mine.recipe["image"] = {"exclude-files": {"nvidia-*": ["nvidia/*.so"]}}
    mine.write()
    assert mine.run("build", "--cell", ORIN).code == 0
    assert lock.read_text() == before[0]
    assert digest_of(mine, ORIN) != before[1]
    files = built_packages(mine, ORIN)
    assert "nvidia/_C.so" not in files
    assert "nvidia/__init__.py" in files
    assert b"nvidia/_C.so" not in files["nvidia_blas-1.0.dist-info/RECORD"]
    assert check_records(files) > 10
    assert not [file for file in record(mine, ORIN, "audit")["files"] if file.startswith("nvidia/")]
    sizes = dict(record(mine, ORIN, "build")["labels"])["io.jbuild.slim"].split(",")
    assert f"nvidia-blas={len(LIBRARY)}>0" in sizes
    assert "nvidia-* without nvidia/*.so" in mine.run("show", "--cell", ORIN).stdout


def test_files_that_python_imports_cannot_be_excluded(mine: Project) -> None:
    mine.recipe["image"] = {"exclude-files": {"kernels": ["kernels/*"]}}
    mine.write()
    done = mine.run("build", "--cell", ORIN)
    assert done.code == mine.run("audit", "--cell", ORIN).code != 0
    assert "kernels/__init__.py" in done.stderr
    assert "`exclude-files` leaves it out, and is a Python module" in done.stderr


def test_the_recipe_may_name_nvidias_packages(mine: Project) -> None:
    mine.recipe["image"] = {"slim-packages": {"nvidia-*": True, "kernels": False}}
    mine.write()
    shown = mine.run("show", "--cell", ORIN).stdout
    assert "slim        GPU code for SM 8.7 only, except kernels" in shown
    done = mine.run("build", "--cell", ORIN)
    assert done.code == 0, done.stderr
    assert "GPU code for SM 8.7 only, except kernels; " in done.stderr
    files = built_packages(mine, ORIN)
    assert files["kernels/_C.so"] == LIBRARY
    assert len(files["nvidia/_C.so"]) < len(LIBRARY)
    check_records(files)

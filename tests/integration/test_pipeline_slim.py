"""Cells that name their GPUs: images without the code for others, the same each time, and said everywhere."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import shlex
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel
from image_files import merged
from index_server import running_index

from builder.audit import elf, fatbin
from builder.audit.byte_source import Plain
from builder.image.oci.layout import open_blob, read_image, unpacked
from builder.lock import lockfile
from slimming.gpu_library import ARM64, LibraryShape, make_container, make_entry, make_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from index_server import Index
    from project import Project

    from builder.model.images import Image


CELL = "r39_2_0-v1_0-cu130-py312-sm87"
_SITE = "opt/venv/lib/python3.12/site-packages"
_ENTRIES = [make_entry(f"sm_{sm}", size=200_000) for sm in (75, 80, 87, 90, 100)]
_CODE = make_library((make_container(*_ENTRIES),), LibraryShape(machine=ARM64))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same recipe with slimming, which is the default of its cell, and without; both are built."""

    slim: Project
    plain: Project


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """A package index with a `vllm` and an NVIDIA library that have code for five GPUs."""
    folder = tmp_path_factory.mktemp("gpu-index")
    files: dict[str, str | bytes] = {"vllm/__init__.py": "", "vllm/_C.so": _CODE}
    tag = "cp312-cp312-manylinux_2_28_aarch64"
    make_wheel(folder, "vllm", "1.0", tag, files=files, requires=("nvidia-demo",))
    make_wheel(folder, "nvidia-demo", "1.0", tag, files={"nvidia/demo/libdemo.so.1": _CODE})
    with running_index(folder) as running:
        yield running


@pytest.fixture(scope="module")
def pair(make_project: Callable[..., Project], index: Index, base_registry: str) -> Pair:
    slim, plain = (_built(make_project, index, base_registry, image) for image in ({}, {"slim": False}))
    return Pair(slim=slim, plain=plain)


def _built(make_project: Callable[..., Project], index: Index, base_registry: str, image: dict[str, Any]) -> Project:
    project = make_project(
        index=index.host,
        architecture="arm64",
        matrix={"l4t": ["39.2.0"], "vllm": ["1.0"], "cuda": ["13.0"], "python": ["3.12"], "sm": ["8.7"]},
        image=image,
        boards=["agx-orin-64"],
        audit={"waive": [{"rule": "other-distribution", "reason": "the base image of these tests is Debian"}]},
    )
    mirror = f'[[registry-mirrors]]\nprefix = "docker.io/library/debian"\nmirror = "{base_registry}/stand-in/debian"\n'
    (project.folder / "jbuild.toml").write_text(mirror)
    # Emulated package managers take minutes.
    project.override("{% block system %}{% endblock %}\n")
    done = project.run("build", "--json")
    assert done.code == 0, done.stderr
    return project


def _cell(project: Project) -> Path:
    return project.folder / "build" / project.name / CELL


def _record(project: Project, stage: str) -> dict[str, Any]:
    return dict(json.loads((_cell(project) / f"{stage}.json").read_text())["record"])


def _wheels(project: Project) -> object:
    lock = lockfile.read_file(project.folder / "locks" / project.name / f"pylock.{CELL}.toml")
    return [(wheel.name, wheel.sha256) for wheel in lock.wheels]


def _image(project: Project) -> Image:
    return read_image(project.cache / "images", _record(project, "build")["manifest"]["digest"], "")


def _files(project: Project) -> dict[str, bytes]:
    """Return the contents of the files in the environment's layers."""
    found: dict[str, bytes] = {}
    layout = project.cache / "images"
    for layer in _image(project).layers:
        with (
            open_blob(layout, layer.digest) as raw,
            unpacked(raw, layer.media_type) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                file = archive.extractfile(member) if member.isreg() and "site-packages" in member.name else None
                if file:
                    found[member.name.lstrip("./")] = file.read()
    return found


def test_the_image_lacks_code_for_other_gpus_and_its_record_is_true(pair: Pair) -> None:
    slim, plain = _files(pair.slim), _files(pair.plain)
    assert plain[f"{_SITE}/vllm/_C.so"] == _CODE
    assert _codes(slim[f"{_SITE}/vllm/_C.so"]) == {80, 87}
    assert slim[f"{_SITE}/nvidia/demo/libdemo.so.1"] == _CODE
    (record,) = (content for name, content in slim.items() if name.endswith("vllm-1.0.dist-info/RECORD"))
    for name, digest, size in csv.reader(record.decode().splitlines()):
        if digest:
            content = slim[f"{_SITE}/{name}"]
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={expected}", str(len(content)))


def test_the_lock_is_the_same_and_so_are_the_layers_without_changes(pair: Pair) -> None:
    wheels = [_wheels(project) for project in (pair.slim, pair.plain)]
    assert wheels[0] == wheels[1]
    slim, plain = (set(_record(project, "render")["layers"]) for project in (pair.slim, pair.plain))
    assert [name.partition("-")[0] for name in slim - plain] == ["vllm"]
    assert _record(pair.plain, "render")["slimmed"] == []


def test_a_second_build_without_any_cache_gives_the_same_digest(pair: Pair) -> None:
    done = pair.slim.run("build", "--verify", "--json")
    assert done.code == 0, done.stderr
    cell = done.cells[CELL]
    assert cell["verified"] == cell["digest"] == _image(pair.slim).digest


def test_plain_buildx_gives_the_same_files(pair: Pair, tmp_path: Path) -> None:
    assert pair.slim.run("render", "--standalone").code == 0
    folder = _cell(pair.slim)
    command = (folder / "Dockerfile").read_text().splitlines()[1].lstrip("# ")
    done = subprocess.run(shlex.split(command), cwd=folder, env=pair.slim.environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    with tarfile.open(folder / "image.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    digest = json.loads((folder / "metadata.json").read_text())["containerimage.digest"]
    built = read_image(tmp_path, digest, "linux/arm64")
    given, own = merged(built, tmp_path), merged(_image(pair.slim), pair.slim.cache / "images")
    # The home folder is from the block of the template that these projects leave out.
    assert {name: given[name] for name in given if name != "home/vllm"} == own


def test_show_and_diff_name_what_is_saved(pair: Pair) -> None:
    (cell,) = pair.slim.run("show", "--json").json["cells"]
    (size,) = cell["slimmed"]
    assert size["name"] == "vllm"
    assert size["before"] > size["after"]
    assert "GPU code for SM 8.7 only" in cell["slim"]
    digests = (_image(pair.plain).digest, _image(pair.slim).digest)
    done = pair.slim.jbuild("diff", *digests)
    assert done.code == 0, done.stderr
    assert "GPU code: 1 package" in done.stdout
    assert "~ vllm: all code" in done.stdout


def _codes(library: bytes) -> set[int]:
    source = Plain(library)
    return {code.target.sm for code in fatbin.codes(source, elf.read_source(source))}

"""Layers that registries have leave the cache; whoever needs them again gets the same bytes."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel
from index_server import running_index
from project import CELL, Project, assert_refused, make_wheels
from servers import Registry, running_registry

from builder.host.file_locks import in_use
from builder.host.paths import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from index_server import Index


_SIZE = 3_000_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheels(folder)
    make_wheel(folder, "weighty", files={"weighty/data.bin": random.Random(1).randbytes(_SIZE)})
    with running_index(folder) as running:
        yield running


@pytest.fixture
def cache(shared_cache: Path, tmp_path: Path) -> Path:
    """A cache of its own, in which the base is there already."""
    own = tmp_path / "cache"
    for name in ("images", "systems", "facts"):
        if (shared_cache / name).is_dir():
            shutil.copytree(shared_cache / name, own / name)
    return own


@pytest.fixture
def project(make_project: Callable[..., Project], index: Index, cache: Path) -> Project:
    """A project with a wheel of 3 MB, and with weights that shrink to half as much."""
    made = make_project(cache=cache, index=index.host, packages={"requires": ["vllm=={vllm}", "weighty"]})
    header = json.dumps({"w": {"dtype": "U8", "shape": [_SIZE], "data_offsets": [0, _SIZE]}}).encode()
    halves = bytes(byte & 15 for byte in random.Random(2).randbytes(_SIZE))
    (made.model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + halves)
    return made


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "second") as running:
        yield running


def large_blobs(project: Project) -> dict[str, int]:
    """Return the sizes of the large blobs of the image's own layers that are in the cache, by their digests."""
    own = project.record("build")["layers"][-len(project.record("render")["layers"]) :]
    sizes = {layer["digest"]: layer["size"] for layer in own}
    blobs = project.cache / "images" / "blobs" / "sha256"
    return {name: size for name, size in sizes.items() if size >= 1 << 20 and (blobs / name[7:]).is_file()}


def publish(project: Project, *arguments: str) -> dict[str, Any]:
    done = project.run("recipe", "--push", *arguments, "--json")
    assert done.code == 0, done.stderr
    return dict(done.cells[CELL])


def test_published_layers_leave_the_cache_and_another_registry_gets_the_same(
    project: Project, second: Registry
) -> None:
    assert project.run("build").code == 0
    before = large_blobs(project)
    assert len(before) == 2, "the wheel and the weights"
    done = project.run("recipe", "--push", "--json")
    assert done.code == 0, done.stderr
    assert f"removed {sum(before.values()) / 1e6:.1f} MB of pushed layers from the cache" in done.stderr
    assert large_blobs(project) == {}
    digest = done.cells[CELL]["digest"]

    again = project.run("recipe", "--push", "--json")
    assert (again.ran(), "packing" in again.stderr) == ([], False)
    # The registry refuses a blob with other bytes.
    pushed = project.run("push", "--registry", f"{second.host}/edge", "--json")
    assert pushed.ran() == ["push"], pushed.stderr
    assert "packing 2 layers again: the cache no longer has them" in pushed.stderr
    assert "removed 4.5 MB" in pushed.stderr
    assert set(second.tags("edge/vllm").values()) == {digest}
    assert large_blobs(project) == {}


def test_a_repository_of_the_same_registry_mounts_them(project: Project) -> None:
    publish(project)
    done = project.run("push", "--registry", f"{project.registry}/{project.name}-released", "--json")
    assert done.ran() == ["push"], done.stderr
    assert "packing" not in done.stderr
    (registry,) = project.record("push")["registries"]
    assert registry["bytes_sent"] == 0
    assert registry["bytes_mounted"] > _SIZE


def test_a_bundle_a_promotion_and_a_smoke_run_get_them_again(
    project: Project, second: Registry, tmp_path: Path
) -> None:
    digest = publish(project)["digest"]
    project.forget()
    # The wheels are fetched again, too.
    shutil.rmtree(project.cache / "wheels")
    smoked = project.run("smoke", "--force", "--json")
    assert (smoked.code, smoked.ran()) == (0, ["smoke"]), smoked.stderr
    assert len(large_blobs(project)) == 2

    promoted = project.run("promote", "--to", second.host, "--json")
    assert promoted.code == 0, promoted.stderr
    assert set(second.tags("vllm").values()) == {digest}
    assert large_blobs(project) == {}

    bundled = project.run("bundle", "--output", str(tmp_path / "bundle"))
    assert bundled.code == 0, bundled.stderr
    for path in (tmp_path / "bundle" / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert len(large_blobs(project)) == 2


def test_a_folder_for_plain_buildx_is_made_without_them(project: Project) -> None:
    publish(project)
    assert project.run("render", "--standalone").code == 0
    (file,) = (project.cell / "layers").glob("*/opt/venv/lib/python3.11/site-packages/weighty/data.bin")
    assert file.read_bytes() == random.Random(1).randbytes(_SIZE)


def test_they_stay_if_that_is_wanted_or_another_jbuild_runs(project: Project) -> None:
    with in_use(Workspace(project=project.folder, cache=project.cache)):
        publish(project)
    assert len(large_blobs(project)) == 2
    publish(project, "--force")
    assert large_blobs(project) == {}
    publish(project, "--registry", f"{project.registry}/{project.name}-kept")
    settings = project.folder / "jbuild.toml"
    settings.write_text("[publish]\nkeep-layers = true\n" + settings.read_text())
    project.forget()
    assert project.run("smoke", "--force").code == 0
    publish(project, "--force")
    assert len(large_blobs(project)) == 2


@pytest.mark.parametrize(
    ("lost", "code", "said"),
    [("wheel", 5, "weighty-.* cannot be downloaded"), ("weights", 11, "models/tiny/.*No tags were set")],
)
def test_a_content_that_is_gone_is_named_and_no_tag_is_set(
    project: Project, second: Registry, index: Index, lost: str, code: int, said: str
) -> None:
    publish(project)
    if lost == "wheel":
        shutil.rmtree(project.cache / "wheels")
        next(index.folder.glob("weighty-*")).unlink()
    else:
        shutil.rmtree(project.cache / "models")
        shutil.rmtree(project.model)
    done = project.run("push", "--locked", "--registry", second.host)
    assert_refused(done, code, said)
    assert second.tags("vllm") == {}
    assert large_blobs(project) == {}

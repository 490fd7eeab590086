"""From a recipe to a tag by the whole command line: what each way of asking runs, makes and says."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from project import CELL, QUESTION, Done, Project, assert_refused, make_model

from builder.lock import lockfile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import Registry


TAG = "1.0-cpu-bookworm"
ALL = ["lock", "audit", "render", "build", "smoke", "push"]
DEAD_ENGINE = "unix:///nowhere/docker.sock"


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what changes when a file below a folder is written."""
    files = [path for name in ("build", "locks") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def test_from_a_recipe_to_a_tag(published: tuple[Project, Done], shared_registry: Registry) -> None:
    project, done = published
    cell = done.cells[CELL]
    digest = project.record("build")["manifest"]["digest"]
    assert shared_registry.tags(project.repository) == {TAG: digest}
    assert (cell["digest"], cell["status"], done.ran()) == (digest, "done", ALL)
    assert [answer["text"] for answer in cell["verdict"]["answers"]] == ["The capital of France is Paris."]
    assert cell["verdict"]["level"] == "cpu"
    (where,) = cell["publication"]["registries"]
    assert (where["repository"], where["digest"]) == (f"{project.registry}/{project.repository}", digest)
    assert {each["name"] for each in where["attached"]} == {"sbom", "verdict", "provenance", "audit"}
    assert cell["size"] > 1e6
    assert project.half_written() == []
    assert project.containers(done.process) == []
    assert project.temporary_names() == []
    assert "\x1b" not in done.stdout + done.stderr


def test_the_lock_is_a_pylock_with_a_hash_for_everything(published: tuple[Project, Done]) -> None:
    project, _ = published
    lock = lockfile.read(project.lock, recipe=project.name, cell=CELL)
    assert lock is not None
    assert [(wheel.name, wheel.version) for wheel in lock.wheels] == [("ballast", "1.0"), ("vllm", "1.0")]
    assert lock.base.digest.startswith("sha256:")
    (model,) = lock.models
    assert [file.path for file in model.files] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_second_run_does_nothing_and_says_so(finished: Project) -> None:
    before = state_of(finished.folder)
    done = finished.run("recipe", "--push")
    assert done.code == 0
    assert "nothing to do: everything is up to date" in done.stdout
    assert f"{finished.registry}/{finished.repository}:{TAG}" in done.stdout
    assert done.stderr.splitlines()[1:] == [f"{CELL}: {stage}: unchanged" for stage in ALL]
    assert {k: v for k, v in state_of(finished.folder).items() if "model-tiny.json" not in k} == {
        k: v for k, v in before.items() if "model-tiny.json" not in k
    }


def test_a_dry_run_tells_what_would_run_and_runs_nothing(project: Project, finished: Project) -> None:
    done = project.run("recipe", "--push", "--dry-run", DOCKER_HOST=DEAD_ENGINE)
    assert done.code == 0
    assert done.stdout == f"{CELL}: {', '.join(f'{stage} run' for stage in ALL)}\n"
    assert sorted(path.name for path in project.folder.iterdir()) == ["jbuild.toml", "models", "recipes"]
    finished.recipe["smoke"]["questions"][0]["ask"] = "And of France, what is the capital?"
    finished.write()
    done = finished.run("recipe", "--push", "--dry-run", "--json")
    assert done.json["dry_run"][CELL] == {
        "lock": "unchanged",
        "audit": "unchanged",
        "render": "unchanged",
        "build": "unchanged",
        "smoke": "run",
        "push": "run",
    }


def test_every_stage_has_a_verb(project: Project, shared_registry: Registry) -> None:
    for number, stage in enumerate(ALL):
        if stage == "audit":
            # Its verb reports findings; the next stage runs it.
            continue
        dead: dict[str, Any] = {"DOCKER_HOST": DEAD_ENGINE} if stage in ("lock", "render") else {}
        done = project.run(stage, "--json", **dead)
        assert done.code == 0, done.stderr
        assert list(done.cells[CELL]["stages"]) == ALL[: number + 1]
        assert done.ran() == (["audit", "render"] if stage == "render" else [stage])
        assert project.temporary_names() == []
    assert shared_registry.tags(project.repository) == {TAG: done.cells[CELL]["digest"]}
    assert project.client.images.list(name=f"jbuild/{project.name}") != []
    assert project.run("smoke", "--force", "--json").ran() == ["smoke"]


def test_until_and_from(finished: Project) -> None:
    assert finished.run("recipe", "--until", "render", "--json").ran() == []
    done = finished.run("recipe", "--until", "build", "--from", "render", "--json")
    assert done.ran() == ["render", "build"]
    assert done.cells[CELL]["digest"] == finished.record("smoke")["digest"]
    assert finished.temporary_names() == []
    assert finished.run("recipe", "--until", "lock", "--force", "--json").ran() == ["lock"]
    assert "docker buildx build" not in finished.run("recipe", "--until", "render").stdout
    done = finished.run("render", "--standalone")
    assert "docker buildx build --platform=linux/amd64" in done.stdout
    assert_refused_usage(finished.run("recipe", "--until", "lock", "--from", "smoke"))
    assert_refused_usage(finished.run("recipe", "--push", "--until", "smoke"))


def assert_refused_usage(done: Done) -> None:
    assert done.code == 2
    assert "error: --" in done.stderr
    assert "next: " in done.stderr


def test_locked_wants_a_lock_that_fits(project: Project) -> None:
    assert_refused(project.run("lock", "--locked"), 4, "there is no lock", f"jbuild lock {project.name}")
    assert not (project.folder / "locks").exists()
    assert re.search(r"failed +at lock, .* UTC: there is no lock\n", project.run("show").stdout)
    assert project.run("lock").code == 0
    assert "failed" not in project.run("show").stdout
    assert project.run("lock", "--locked", "--json").ran() == []
    before = project.lock.read_text()
    project.recipe["packages"]["constraints"] = ["ballast<2"]
    project.write()
    assert_refused(project.run("lock", "--locked"), 4, "the lock is stale: the recipe")
    assert project.lock.read_text() == before
    done = project.run("lock", "--json")
    assert done.ran() == ["lock"]
    assert "the lock is stale (the recipe or its platform changed); locking anew" in done.stderr
    assert project.lock.read_text() != before
    assert project.run("lock", "--locked", "--json").ran() == []


def test_a_lock_edited_by_hand_is_refused(finished: Project) -> None:
    finished.lock.write_text(finished.lock.read_text().replace("Apache-2.0", "MIT"))
    assert_refused(finished.run("render"), 4, "edited by hand", "jbuild lock .* --force")
    finished.lock.write_text("[[")
    assert_refused(finished.run("render"), 4, "damaged")
    assert finished.run("lock", "--force").code == 0


def test_a_model_file_that_changed_makes_the_lock_stale(finished: Project) -> None:
    make_model(finished.model, seed=7)
    assert_refused(finished.run("render", "--locked"), 4, "the lock is stale: the files of model tiny changed")
    done = finished.run("render", "--standalone", "--json")
    assert "the files of model tiny changed" in done.stderr
    assert done.ran() == ["lock", "audit", "render"]
    (model,) = finished.cell.glob("layers/model-*/models/tiny/model.safetensors")
    assert model.read_bytes().endswith(b"\x07" * 64)


def test_a_wrong_answer_pushes_nothing_and_a_right_expectation_goes_on(
    finished: Project, shared_registry: Registry
) -> None:
    finished.recipe["smoke"]["questions"] = [QUESTION | {"expect": "Berlin"}]
    finished.recipe["publish"]["tags"] = ["another"]
    finished.write()
    done = finished.run("recipe", "--push", "--json")
    assert_refused(done, 10, "wrong answer to 'What is the capital of France\\?'; expected: Berlin; got: 'The capital")
    assert (done.json["error"], done.json["step"], done.json["level"]) == ("SmokeFailedError", "question", "cpu")
    verdict = finished.record("smoke")
    assert (verdict["passed"], verdict["step"]) == (False, "question")
    assert "The capital of France is Paris." in [answer["text"] for answer in verdict["answers"]]
    assert "another" not in shared_registry.tags(finished.repository)
    assert finished.containers(done.process) == []
    finished.recipe["smoke"]["questions"] = [QUESTION | {"expect": "Par.s"}]
    finished.write()
    assert finished.run("recipe", "--push", "--json").ran() == ["smoke", "push"]
    assert "another" in shared_registry.tags(finished.repository)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("exits", "the container ended before it was ready: exit code 3.*libnuma"),
        ("crashes-while-answering", "the container crashed during the request"),
        ("killed-by-term", "SIGTERM killed the server"),
    ],
)
def test_a_server_that_fails_is_shown_with_its_log(finished: Project, fault: str, said: str) -> None:
    finished.misbehave(fault)
    done = finished.run("recipe", "--push")
    assert_refused(done, 10, said, r"\| stand-in starting", "smoke.log")
    assert finished.containers(done.process) == []
    assert finished.temporary_names() == []
    assert "stand-in" in (finished.cell / "smoke.log").read_text()
    assert not finished.record("smoke")["passed"]


def test_a_server_that_fails_by_the_images_own_environment(finished: Project) -> None:
    """The recipe's server environment is baked in: another image, which is thrown away when it fails."""
    finished.recipe["server"] = {"environment": {"STAND_IN_FAULT": "garbage"}}
    finished.write()
    done = finished.run("recipe", "--push")
    assert_refused(done, 10, "wrong answer")
    assert finished.temporary_names() == []
    failed = finished.record("build")["manifest"]["digest"]
    assert [image for image in finished.client.api.images(all=True) if image["Id"] == failed] == []


def test_two_cells_of_which_one_fails(project: Project, shared_registry: Registry) -> None:
    project.recipe["matrix"]["vllm"] = ["1.0", "1.1"]
    project.recipe["overrides"] = [{"when": {"vllm": "1.1"}, "environment": {"STAND_IN_FAULT": "garbage"}}]
    project.write()
    done = project.run("recipe", "--push", "--jobs", "2")
    assert done.code == 13
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == 1
    assert "v1_1-debian12 failed:\nerror: smoke: wrong answer" in done.stderr
    assert f"{project.name}/v1_1-debian12: failed\n  error     smoke: wrong answer" in done.stdout
    assert "1 done, 1 failed in" in done.stdout
    assert list(shared_registry.tags(project.repository)) == [TAG]
    assert project.temporary_names() == []
    assert project.containers(done.process) == []
    done = project.run("recipe", "--push", "--cell", "vllm=1.0", "--json")
    assert (done.code, done.ran()) == (0, [])


def test_an_impossible_cell_is_said_and_left_out(finished: Project) -> None:
    finished.recipe["matrix"]["vllm"] = ["1.0", "9.9"]
    finished.recipe["matrix"]["exclude"] = [{"vllm": "9.9", "reason": "not released yet"}]
    finished.write()
    done = finished.run("recipe", "--json")
    assert done.code == 0
    assert done.cells["v9_9-debian12"] == {
        "cell": "v9_9-debian12",
        "status": "impossible",
        "reason": "not released yet",
    }
    assert "v9_9-debian12: impossible: not released yet" in done.stderr


def test_what_is_lost_is_made_again(finished: Project, tmp_path: Path) -> None:
    """A deleted cache and a deleted build folder cost time, nothing else."""
    digest = finished.record("build")["manifest"]["digest"]
    finished.environment["JBUILD_CACHE"] = str(tmp_path / "cache")
    assert finished.run("recipe", "--json").ran() == ["build"]
    for path in finished.cell.glob("*.json"):
        path.unlink()
    done = finished.run("recipe", "--json")
    assert done.ran() == ["audit", "render", "build", "smoke"]
    assert done.cells[CELL]["digest"] == digest


def test_the_verbs_that_look_need_no_engine(finished: Project) -> None:
    for verb in ("show", "matrix"):
        done = finished.run(verb, DOCKER_HOST=DEAD_ENGINE)
        assert (done.code, done.stderr) == (0, "")
        assert CELL in done.stdout
        assert json.loads(finished.run(verb, "--json", DOCKER_HOST=DEAD_ENGINE).stdout)["recipe"] == finished.name
    done = finished.jbuild("list", DOCKER_HOST=DEAD_ENGINE)
    assert (done.code, done.stderr) == (0, "")
    assert finished.name in done.stdout
    assert finished.name in [row["name"] for row in finished.jbuild("list", "--json").json["recipes"]]


def test_show_tells_what_is_done(finished: Project) -> None:
    shown = finished.run("show", "--json", DOCKER_HOST=DEAD_ENGINE).json["cells"][0]
    assert shown["stages"] == dict.fromkeys(ALL, "unchanged")
    assert shown["lock"]["packages"] == {"ballast": "1.0", "vllm": "1.0"}


def test_github_logs_are_plain_and_an_ordinary_log_too(finished: Project) -> None:
    ci = {"CI": "true"}
    environments: list[dict[str, Any]] = [{"NO_COLOR": "1"}, ci, {**ci, "GITHUB_ACTIONS": "true"}, {}]
    for environment in environments:
        done = finished.run("recipe", **environment)
        assert done.code == 0
        assert "\x1b" not in done.stdout + done.stderr
        assert "\r" not in done.stdout + done.stderr


def test_groups_of_a_github_log_are_closed(make_project: Callable[..., Project]) -> None:
    project = make_project()
    project.recipe["matrix"]["vllm"] = ["1.0", "1.1"]
    project.write()
    done = project.run("lock", CI="true", GITHUB_ACTIONS="true")
    assert done.code == 0
    assert done.stderr.count("::group::") == done.stderr.count("::endgroup::")
    assert "\x1b" not in done.stderr

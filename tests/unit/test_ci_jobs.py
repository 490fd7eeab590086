"""Cells as jobs of a GitHub matrix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w
from recipe_factory import read, recipe_data

from builder.errors import DocumentError, UsageError
from builder.project.ci.github_jobs import github, outputs, plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.paths import Workspace

    CommandLine = Callable[..., tuple[int, str, str]]


def write(folder: Path, name: str = "demo", **changes: Any) -> Path:
    path = folder / "recipes" / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(tomli_w.dumps(recipe_data(**changes)))
    return path


def test_a_cell_is_a_job(tmp_path: Path) -> None:
    made = plan([read(write(tmp_path))], {})
    assert [(e.recipe, e.cell, e.architecture, e.platform, e.runner, e.smoke_runner) for e in made.include] == [
        ("demo", "r36_4_0-v0_20_2", "arm64", "linux/arm64", "ubuntu-24.04", ""),
        ("demo", "r39_2_0-v0_20_2", "arm64", "linux/arm64", "ubuntu-24.04", ""),
    ]
    assert made.skipped == ()


def test_the_recipe_names_runners_and_its_labels_are_filled_in(tmp_path: Path) -> None:
    path = write(tmp_path, ci={"runner": "big-{architecture}", "smoke-runner": "jetson-{l4t}"})
    made = plan([read(path)], {})
    assert [(e.runner, e.smoke_runner) for e in made.include] == [
        ("big-arm64", "jetson-36.4.0"),
        ("big-arm64", "jetson-39.2.0"),
    ]


@pytest.mark.parametrize(
    ("given", "runner"),
    [({"": "mine"}, "mine"), ({"arm64": "arms", "": "mine"}, "arms"), ({"amd64": "other"}, "big")],
)
def test_the_command_line_wins_over_the_recipe(tmp_path: Path, given: dict[str, str], runner: str) -> None:
    made = plan([read(write(tmp_path, ci={"runner": "big"}))], given)
    assert {entry.runner for entry in made.include} == {runner}


@pytest.mark.parametrize("label", ["two words", "a;b", "${{ x }}", "-x", ""])
def test_a_label_cannot_carry_anything_else(tmp_path: Path, label: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(write(tmp_path, ci={"runner": label}))
    (problem,) = caught.value.problems
    assert problem.key == "ci.runner"


def test_an_unknown_key_of_ci_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        read(write(tmp_path, ci={"smoke-runer": "x"}))
    (problem,) = caught.value.problems
    assert (problem.key, problem.hint) == ("ci.smoke-runer", "did you mean `smoke-runner`?")


def test_impossible_cells_are_told_with_their_reason(tmp_path: Path) -> None:
    exclude = [{"l4t": "36.4.0", "reason": "nobody has one"}]
    matrix = {"l4t": ["36.4.0", "39.2.0"], "vllm": ["0.20.2"], "exclude": exclude}
    made = plan([read(write(tmp_path, matrix=matrix))], {})
    assert [entry.cell for entry in made.include] == ["r39_2_0-v0_20_2"]
    assert [(s.cell, s.status, s.reason) for s in made.skipped] == [("r36_4_0-v0_20_2", "impossible", "nobody has one")]


def test_what_did_not_change_gets_no_job(tmp_path: Path) -> None:
    made = plan([read(write(tmp_path))], {}, {("demo", "r36_4_0-v0_20_2"): ("lock",)}, "v1")
    assert [entry.cell for entry in made.include] == ["r36_4_0-v0_20_2"]
    assert [(s.cell, s.status) for s in made.skipped] == [("r39_2_0-v0_20_2", "unchanged")]
    assert "since v1" in made.skipped[0].reason


def test_the_lines_are_what_github_reads(tmp_path: Path) -> None:
    matrix, cells = outputs(plan([read(write(tmp_path))], {})).splitlines()
    name, _, value = matrix.partition("=")
    assert (name, cells) == ("matrix", "cells=2")
    assert {entry["cell"] for entry in json.loads(value)["include"]} == {"r36_4_0-v0_20_2", "r39_2_0-v0_20_2"}


def many(count: int) -> dict[str, Any]:
    return {"l4t": ["39.2.0"], "vllm": ["0.20.2"], "variant": [f"v{number}" for number in range(count)]}


def test_as_many_cells_as_a_matrix_may_have(tmp_path: Path) -> None:
    publish = {"tags": ["{cell}"]}
    most = github().most_jobs
    assert len(plan([read(write(tmp_path, matrix=many(most), publish=publish))], {}).include) == most
    with pytest.raises(UsageError) as caught:
        plan([read(write(tmp_path, matrix=many(most + 1), publish=publish))], {})
    assert "257 cells are more than the 256 jobs" in caught.value.message
    assert "--changed-since" in (caught.value.hint or "")


def test_several_recipes_share_a_matrix(
    command_line: CommandLine, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(workspace.project, "one")
    write(workspace.project, "two")
    monkeypatch.chdir(workspace.project)
    code, out, err = command_line("matrix", "one", "two", "--format", "github", "--output", "plan.json")
    assert code == 0, err
    saved = json.loads((workspace.project / "plan.json").read_text())
    assert [entry["recipe"] for entry in saved["include"]] == ["one", "one", "two", "two"]
    assert json.loads(out.splitlines()[0].removeprefix("matrix="))["include"] == saved["include"]
    code, out, _ = command_line("matrix", "one", "two", "--format", "github", "--json")
    assert json.loads(out) == saved


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo", "demo"), "take several recipes"),
        (("demo", "--runner", "x"), "--runner needs --format github"),
        (("demo", "--format", "github", "--runner", "sparc=x y"), "is not a runner such as"),
        (("demo", "--format", "gitlab"), "'table', 'github', 'inputs'"),
        (("nothing", "--format", "github"), "there is no recipe `nothing`"),
    ],
)
def test_what_cannot_be_asked_for(
    command_line: CommandLine,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    write(workspace.project)
    monkeypatch.chdir(workspace.project)
    code, out, err = command_line("matrix", *arguments)
    assert (code, out) == (2, "")
    assert said in err

"""What a linter does not say of our workflows: every action pinned, no more rights than needed, no injection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
FILES = [*WORKFLOWS, CHECKOUT / "action.yml"]


def read(path: Path) -> dict[str, Any]:
    # YAML 1.1 takes the key `on` for a truth value.
    return dict(yaml.safe_load(re.sub(r"^on:", "'on':", path.read_text(), flags=re.MULTILINE)))


def steps(path: Path) -> list[dict[str, Any]]:
    document = read(path)
    if "runs" in document:
        return list(document["runs"]["steps"])
    return [step for job in document["jobs"].values() for step in job["steps"]]


def test_the_workflows_are_there() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "images.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_action_is_pinned_to_a_commit_whose_tag_is_named(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if re.match(r"\s*(- )?uses:", line)]
    assert lines
    for line in lines:
        if "uses: ./" not in line:
            assert re.search(r"uses: [\w.-]+/[\w.-]+(/[\w.-]+)?@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_action_has_one_version(path: Path) -> None:
    everywhere = {line for each in FILES for line in re.findall(r"uses: ([\w.-]+/.*)", each.read_text())}
    assert len({line.partition("@")[0] for line in everywhere}) == len(everywhere)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_script_holds_an_expression(path: Path) -> None:
    """Values of inputs come as environment variables: within a script they could be commands."""
    scripts = [step["run"] for step in steps(path) if "run" in step]
    assert scripts
    assert not [script for script in scripts if "${{" in script]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_may_read_only_and_end_in_time(path: Path) -> None:
    document = read(path)
    assert document["permissions"] == {}
    assert "group" in document["concurrency"]
    for job in document["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        assert job["timeout-minutes"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_checkout_leaves_no_token(path: Path) -> None:
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_ci_runs_what_everybody_runs() -> None:
    scripts = [step["run"] for step in steps(CHECKOUT / ".github" / "workflows" / "ci.yml") if "run" in step]
    assert len([script for script in scripts if script.endswith(" .ci/run")]) == 1


def test_both_ways_to_start_the_workflow_take_the_same() -> None:
    events = read(CHECKOUT / ".github" / "workflows" / "images.yml")["on"]
    assert events["workflow_call"]["inputs"] == events["workflow_dispatch"]["inputs"]


def test_the_workflow_gives_the_action_only_what_it_takes() -> None:
    action = read(CHECKOUT / "action.yml")
    given = [
        step for step in steps(CHECKOUT / ".github" / "workflows" / "images.yml") if step.get("uses") == "./.jbuild"
    ]
    assert len(given) == 3
    assert all(set(step["with"]) <= set(action["inputs"]) for step in given)

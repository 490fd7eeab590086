"""What verbs print with `--json` about images, registries and locks, against their schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from json_results import check
from project import CELL, Done, Project

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "line",
    [
        "recipe NAME --push",
        "audit NAME --files",
        "lock NAME --check",
        "tags NAME",
        "promote NAME --unsigned-verdict",
        "verdict NAME --output verdict.json",
        "verify REGISTRY:1.0-cpu-bookworm",
        "diff NAME REGISTRY:1.0-cpu-bookworm",
        "models lock NAME",
        "models verify NAME",
        "why NAME",
    ],
)
def test_what_is_printed_is_as_its_schema_says(finished: Project, line: str) -> None:
    names = {"NAME": finished.name, "REGISTRY": f"{finished.registry}/{finished.repository}"}
    for name, value in names.items():
        line = line.replace(name, value)
    done = finished.jbuild(*line.split(), "--json")
    assert done.code == 0, done.stderr
    check(line.split(maxsplit=1)[0], done.stdout)


def test_a_result_is_kept_and_summed_up(finished: Project, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    done = finished.run("recipe", "--push", "--json", "--result", str(path))
    assert path.read_text() == done.stdout
    summed: Done = finished.jbuild("summary", str(path), "--json")
    (cell,) = check("summary", summed.stdout)["cells"]
    assert (cell["cell"], cell["status"], cell["answers"]) == (CELL, "unchanged", ["The capital of France is Paris."])
    assert cell["tags"] == [f"{finished.registry}/{finished.repository}:1.0-cpu-bookworm"]


def test_a_cell_that_failed_is_kept_too(finished: Project, tmp_path: Path) -> None:
    finished.misbehave("garbage")
    path = tmp_path / "result.json"
    done = finished.run("recipe", "--json", "--result", str(path))
    assert done.code == 10, done.stderr
    assert check("error", done.stdout)["exit_code"] == 10
    (cell,) = check("recipe", path.read_text())["cells"]
    assert cell["error"]["exit_code"] == 10
    assert finished.jbuild("summary", str(path)).code == 13


def test_an_image_that_does_not_hold_is_one_object_too(finished: Project) -> None:
    image = f"{finished.registry}/{finished.repository}:1.0-cpu-bookworm"
    done = finished.jbuild("verify", image, "--level", "gpu", "--json")
    assert done.code == 6, done.stderr
    assert check("verify", done.stdout)["holds"] is False
    assert "error: " in done.stderr

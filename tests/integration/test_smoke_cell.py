"""The smoke run of a cell on the command line: golden tokens, bounds, and a digest that is not asked twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from project import CELL, assert_refused

from builder.smoke import golden

if TYPE_CHECKING:
    from pathlib import Path

    from project import Project


@pytest.fixture
def asked(finished: Project) -> Project:
    """A project whose image has proved itself, with verdicts of its own: the cache is shared."""
    finished.recipe["smoke"]["bounds"] = {"later-first-token": "100%"}
    finished.write()
    return finished


def started(project: Project) -> str:
    """Return what tells one smoke run's log from another's."""
    state = (project.cell / "smoke.log").stat()
    return f"{state.st_mtime_ns} {state.st_ino}"


def golden_file(project: Project) -> Path:
    return project.folder / "recipes" / "golden" / f"{project.name}.toml"


def test_a_digest_is_asked_once_also_when_its_record_is_lost(asked: Project) -> None:
    before = started(asked)
    (asked.cell / "smoke.json").unlink()
    done = asked.run("smoke", "--json")
    assert done.code == 0, done.stderr
    assert done.ran() == ["smoke"]
    assert "this digest passed at level cpu on " in done.stderr
    assert started(asked) == before, "nothing was started"
    assert asked.record("smoke")["digest"] == done.cells[CELL]["digest"]
    assert asked.run("smoke", "--json").ran() == []
    again = asked.run("smoke", "--force", "--json")
    assert again.ran() == ["smoke"]
    assert started(asked) != before


def test_golden_tokens_are_recorded_and_compared(asked: Project) -> None:
    done = asked.run("smoke", "--record", "--json")
    assert done.code == 0, done.stderr
    (entry,) = golden.read(golden_file(asked))
    assert [token.text for token in entry.tokens] == ["The capital of France ", "is ", "Paris."]
    assert entry.tokens[0].top == (("The capital of France ", -0.1), ("other", -3.0))
    assert asked.run("smoke", "--json").ran() == [], "its own answers are those of the record"

    asked.recipe["smoke"]["environment"] = {"STAND_IN_SHIFT": "-0.2"}
    asked.write()
    near = asked.run("smoke", "--json")
    assert near.code == 0, near.stderr
    assert near.cells[CELL]["verdict"]["answers"][0]["golden"] == {"tokens": 3, "worst": 0.2, "difference": None}

    asked.recipe["smoke"]["environment"] = {"STAND_IN_SHIFT": "-1.5"}
    asked.write()
    far = asked.run("smoke", "--json")
    assert_refused(
        far, 10, r"differs from the golden one: token 1, .* has log-probability -1.60, recorded -0.10", "--record"
    )
    assert not asked.record("smoke")["passed"]
    assert asked.record("smoke")["answers"][0]["golden"]["worst"] == 1.5


def test_a_damaged_golden_file_is_one_located_error(asked: Project) -> None:
    path = golden_file(asked)
    path.parent.mkdir()
    path.write_text('[[golden]]\nasked = "no"\n')
    assert_refused(asked.run("smoke"), 3, r"golden/.*\.toml:2: golden\[0\]\.asked: `no` is not a fingerprint")


def test_an_image_that_is_worse_than_the_last_one(asked: Project) -> None:
    asked.recipe["smoke"]["bounds"]["exceeded"] = "error"
    asked.misbehave("slow")
    refused = asked.run("smoke")
    assert_refused(refused, 10, r"regressed beyond \[smoke\.bounds\]", r"smoke\.bounds")
    assert asked.record("smoke")["step"] == "bounds"
    assert asked.containers(refused.process) == []

    asked.recipe["smoke"]["bounds"]["exceeded"] = "warning"
    asked.write()
    warned = asked.run("smoke", "--json")
    assert warned.code == 0, warned.stderr
    assert "to the first token: more than 100% worse" in warned.stderr
    (worse,) = warned.cells[CELL]["verdict"]["warnings"]
    assert "s to the first token" in worse

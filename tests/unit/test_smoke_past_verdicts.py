"""What is kept of a verdict: by digest and question, and how much worse the next may be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builder.host.paths import Workspace
from builder.model.recipes import Bounds, Question, ServerSpec, SmokeSpec, Spec
from builder.model.verdicts import Answer, Token, Verdict
from builder.smoke import stage
from builder.smoke.golden import Golden

if TYPE_CHECKING:
    from builder.model.verdicts import Level

ANSWER = Answer(question="q", text="a", seconds=2.0, tokens=8, first_token_s=1.0, tokens_per_s=10.0)
DIGEST = "sha256:" + "a" * 64
VERDICT = Verdict(
    level="emulated",
    digest=DIGEST,
    passed=True,
    when="2026-01-01T00:00:00+00:00",
    log=Path("smoke.log"),
    answers=(ANSWER, ANSWER, ANSWER),
    ready_s=100.0,
    peak_memory_bytes=1_000_000_000,
    image_bytes=500_000_000,
)
SPEC = Spec(smoke=SmokeSpec(questions=(Question(ask="q", expect="a"),)))
GOLDEN = Golden(prompt="a" * 16, model="", title="q", source="s", tokens=(Token(text="a", logprob=-0.1),))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(project=tmp_path / "work", cache=tmp_path / "cache")


def test_a_digest_is_known_by_its_level_and_questions(workspace: Workspace) -> None:
    question = stage.question_fingerprint(SPEC, ())
    stage.keep_verdict(workspace, VERDICT, question)
    assert stage.find_verdict(workspace, DIGEST, "emulated", question) == VERDICT
    assert stage.find_verdict(workspace, DIGEST, "cpu", question) is None
    assert stage.find_verdict(workspace, "sha256:" + "b" * 64, "emulated", question) is None
    assert stage.find_verdict(workspace, DIGEST, "emulated", stage.question_fingerprint(SPEC, (GOLDEN,))) is None


@pytest.mark.parametrize("change", [{"passed": False}, {"digest": "sha256:0"}, {"level": "gpu"}])
def test_what_is_no_proof_of_this_digest_at_this_level(workspace: Workspace, change: dict[str, Any]) -> None:
    question = stage.question_fingerprint(SPEC, ())
    stage.keep_verdict(workspace, VERDICT, question)
    (path,) = (workspace.cache / "verdicts").rglob("*.json")
    wrong = dataclasses.replace(VERDICT, **change)
    stage.keep_verdict(workspace, wrong, question)
    (other,) = set((workspace.cache / "verdicts").rglob("*.json")) - {path} or {path}
    other.replace(path)
    assert stage.find_verdict(workspace, DIGEST, "emulated", question) is None


def test_how_long_it_may_take_and_how_bad_it_may_be_prove_nothing() -> None:
    smoke = SPEC.smoke
    same = dataclasses.replace(smoke, ready_within_s=5.0, answer_within_s=1.0, bounds=Bounds(slower_start=0.1))
    assert stage.question_fingerprint(dataclasses.replace(SPEC, smoke=same), ()) == stage.question_fingerprint(SPEC, ())
    for changed in (
        dataclasses.replace(smoke, questions=(*smoke.questions, *smoke.questions)),
        dataclasses.replace(smoke, api_key=False),
        dataclasses.replace(smoke, environment=(("A", "1"),)),
        dataclasses.replace(smoke, golden_tolerance=0.1),
    ):
        assert stage.question_fingerprint(dataclasses.replace(SPEC, smoke=changed), ()) != stage.question_fingerprint(
            SPEC, ()
        )
    assert stage.question_fingerprint(
        dataclasses.replace(SPEC, server=ServerSpec(port=1)), ()
    ) != stage.question_fingerprint(SPEC, ())


ALL = Bounds(slower_start=0.5, later_first_token=0.5, fewer_tokens=0.3, more_memory=0.2, larger_image=0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ()),
        ({"ready_s": 149.0}, ()),
        ({"ready_s": 151.0}, ("151.0 s to ready, last time 100.0 s to ready: more than 50% worse",)),
        ({"ready_s": 10.0}, ()),
        (
            {"first_token_s": 1.6},
            ("1.60 s to the first token, last time 1.00 s to the first token: more than 50% worse",),
        ),
        ({"tokens_per_s": 7.5}, ()),
        ({"tokens_per_s": 6.5}, ("6.5 tokens/s, last time 10.0 tokens/s: more than 30% worse",)),
        ({"tokens_per_s": 90.0}, ()),
        (
            {"peak_memory_bytes": 1_300_000_000},
            ("1300000000 bytes of memory, last time 1000000000 bytes of memory: more than 20% worse",),
        ),
        (
            {"image_bytes": 560_000_000},
            ("an image of 560000000 bytes, last time an image of 500000000 bytes: more than 10% worse",),
        ),
        ({"ready_s": None, "peak_memory_bytes": None, "first_token_s": None}, ()),
    ],
)
def test_what_is_worse_than_the_last_time(change: dict[str, Any], said: tuple[str, ...]) -> None:
    of_answer = {name: value for name, value in change.items() if name in ("first_token_s", "tokens_per_s")}
    answers = (dataclasses.replace(ANSWER, **of_answer),) * 3
    rest = {name: value for name, value in change.items() if name not in of_answer}
    assert tuple(stage.regressions(ALL, dataclasses.replace(VERDICT, answers=answers, **rest), VERDICT)) == said


def test_what_the_recipe_does_not_bound_is_not_looked_at() -> None:
    awful = dataclasses.replace(VERDICT, ready_s=9000.0, peak_memory_bytes=1 << 40, image_bytes=1 << 40)
    assert tuple(stage.regressions(Bounds(), awful, VERDICT)) == ()


def test_a_small_difference_is_noise_however_large_a_part_it_is() -> None:
    quick = dataclasses.replace(VERDICT, ready_s=0.5)
    assert tuple(stage.regressions(ALL, dataclasses.replace(VERDICT, ready_s=2.0), quick)) == ()
    assert tuple(stage.regressions(ALL, dataclasses.replace(VERDICT, ready_s=3.0), quick)) != ()


def test_one_slow_answer_of_three_is_no_trend() -> None:
    slow = dataclasses.replace(ANSWER, first_token_s=60.0)
    assert tuple(stage.regressions(ALL, dataclasses.replace(VERDICT, answers=(ANSWER, slow, ANSWER)), VERDICT)) == ()


def levels() -> tuple[Level, ...]:
    return ("emulated", "cpu")


def test_both_levels_are_kept_beside_each_other(workspace: Workspace) -> None:
    question = stage.question_fingerprint(SPEC, ())
    for level in levels():
        stage.keep_verdict(workspace, dataclasses.replace(VERDICT, level=level), question)
    assert all(stage.find_verdict(workspace, DIGEST, level, question) for level in levels())

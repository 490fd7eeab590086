"""What people are told while a server starts, and what its start is called when it never ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from builder.host.console import Console
from builder.model.recipes import Question, SmokeSpec, Spec
from builder.model.verdicts import Answer, Token
from builder.recipe.levels import levels, usual_start_s
from builder.smoke import golden
from builder.smoke.errors import StepFailedError
from builder.smoke.openai_client import Reply
from builder.smoke.steps import Baseline, SmokeRun, _never_ready, _progress, accept, patience, wants_logprobs

QUESTION = Question(ask="q", expect="a")
TOKENS = (Token(text="a", logprob=-0.1),)
REPLY = Reply(answer=Answer(question="q", text="a", seconds=1.0, tokens=1), tokens=TOKENS)


def run(**changes: Any) -> SmokeRun:
    facts: dict[str, Any] = {
        "name": "cell",
        "spec": Spec(smoke=SmokeSpec(questions=(QUESTION,))),
        "launch": None,
        "engine": None,
        "console": Console(quiet=True),
        "level": "emulated",
    }
    return SmokeRun(**(facts | changes))


def container(silent_s: float, last_line: str = "loading weights") -> Any:
    return SimpleNamespace(log=SimpleNamespace(silent_s=silent_s, last_line=last_line))


@pytest.mark.parametrize(
    ("level", "emulated", "before_s", "told"),
    [
        ("emulated", True, None, "under emulation this usually takes about 2 min"),
        ("emulated-forward", False, None, ""),
        ("cpu", False, None, ""),
        ("emulated", True, 364.0, "last time it took 6 min"),
        ("cpu", False, 12.0, "last time it took 12 s"),
    ],
)
def test_patience_is_asked_for_before_the_wait(level: str, emulated: bool, before_s: float | None, told: str) -> None:
    assert patience(run(level=level, emulated=emulated, baseline=Baseline(usual_start_s=before_s))) == told


def test_only_levels_that_take_minutes_say_so() -> None:
    assert [level for level in levels() if usual_start_s(level)] == ["emulated-forward", "emulated"]


@pytest.mark.parametrize(
    ("silent_s", "told"),
    [
        (0.2, "loading weights"),
        (30.0, "nothing new in its log for 30 s; last time it took 6 min"),
    ],
)
def test_a_stale_line_of_the_log_is_not_repeated(silent_s: float, told: str) -> None:
    assert _progress(container(silent_s), "last time it took 6 min") == told


def test_progress_without_knowledge() -> None:
    assert _progress(container(7.0), "") == "nothing new in its log for 7 s"


@pytest.mark.parametrize(("silent_s", "fault"), [(460.0, "hung-start"), (440.0, "slow-start")])
def test_a_start_that_stands_still_and_one_that_moves(silent_s: float, fault: str) -> None:
    assert _never_ready(900.0, container(silent_s)).fault.id == fault


def entry(*tokens: Token) -> golden.Golden:
    return golden.Golden(prompt=golden.prompt_of(QUESTION), model="m", title="q", source="s", tokens=tokens)


def test_an_answer_is_compared_with_its_golden_one() -> None:
    running = run(baseline=Baseline(golden=(entry(*TOKENS),), model="m"))
    assert wants_logprobs(running, QUESTION)
    accept(running, QUESTION, REPLY, "question")
    (answer,) = running.answers
    assert answer.golden is not None
    assert (answer.golden.tokens, answer.golden.difference) == (1, None)


def test_an_answer_that_is_not_the_golden_one_is_kept_and_fails() -> None:
    running = run(baseline=Baseline(golden=(entry(Token(text="b", logprob=-0.1)),), model="m"))
    with pytest.raises(StepFailedError, match="differs from the golden one: token 1 is 'a', recorded 'b'") as caught:
        accept(running, QUESTION, REPLY, "forward")
    assert (caught.value.step, caught.value.fault.id) == ("forward", "not-golden")
    assert running.answers[0].golden is not None


def test_without_a_golden_answer_there_is_nothing_to_compare() -> None:
    running = run(baseline=Baseline(golden=(entry(*TOKENS),), model="another"))
    assert not wants_logprobs(running, QUESTION)
    accept(running, QUESTION, REPLY, "question")
    assert running.answers[0].golden is None


def test_answers_are_recorded_on_request_only() -> None:
    recorded: list[golden.Golden] = []
    running = run(baseline=Baseline(recorded=recorded, model="m"))
    assert wants_logprobs(running, QUESTION)
    accept(running, QUESTION, REPLY, "question")
    (made,) = recorded
    assert (made.prompt, made.model, made.tokens) == (golden.prompt_of(QUESTION), "m", TOKENS)
    assert "level emulated" in made.source
    assert "cell cell" in made.source


def test_what_a_model_says_is_shown_on_one_line_that_no_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    reply = Reply(answer=Answer(question="q", text="Paris.\n\nAnd\x1b[31m more", seconds=1.0, tokens=1), tokens=TOKENS)
    accept(run(console=Console()), QUESTION, reply, "question")
    assert capsys.readouterr().err == "cell: q -> Paris. And\\x1b[31m more (1.0 s)\n"

"""What is a right answer, and a question asked in all its ways."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from builder.model.recipes import Question
from builder.model.verdicts import Answer, Token
from builder.remote.openai import ServerError
from builder.smoke.ask import WrongAnswerError, ask, together, unmet
from builder.smoke.openai_client import Reply

ANSWER = Answer(question="q", text="It is Paris.", seconds=2.0, tokens=4, first_token_s=0.5, tokens_per_s=2.0)
TOKENS = tuple(Token(text=text, logprob=-0.1) for text in ("It", " is", " Paris", "."))
REPLY = Reply(answer=ANSWER, tokens=TOKENS, chunks=4)


def replying(text: str = ANSWER.text, chunks: int = 4, **changes: Any) -> Reply:
    return Reply(answer=dataclasses.replace(ANSWER, text=text, **changes), tokens=TOKENS, chunks=chunks)


@pytest.mark.parametrize(
    ("wanted", "reply", "problem"),
    [
        ({"expect": "Paris"}, REPLY, None),
        ({"expect": "Rome"}, REPLY, "expected: Rome; got: 'It is Paris.'"),
        ({"text": "It is Paris."}, REPLY, None),
        ({"text": "It is Paris"}, REPLY, "expected exactly: 'It is Paris'; got: 'It is Paris.'"),
        ({"tokens": ("It", " is")}, REPLY, None),
        ({"tokens": ("It", " was")}, REPLY, r"expected the tokens ['It', ' was']; got: ['It', ' is']"),
        ({"tokens": ("It", " is", " Paris", ".", "!")}, REPLY, "; got: ['It', ' is', ' Paris', '.']"),
        ({"min_tokens": 4}, REPLY, None),
        ({"min_tokens": 5}, REPLY, "expected at least 5 tokens; got 4: 'It is Paris.'"),
        ({"schema": '{"type": "object"}'}, replying("{}"), None),
        (
            {"schema": '{"type": "object"}'},
            REPLY,
            "expected JSON that matches the schema, but it is not JSON; got: 'It is Paris.'",
        ),
        ({"expect": "Paris", "min_tokens": 9}, REPLY, "at least 9"),
        ({"expect": "Paris"}, replying(chunks=1, tokens=8), "expected a stream; got 8 tokens in one chunk"),
        ({"expect": "Paris"}, replying(chunks=1, tokens=7), None),
    ],
)
def test_what_is_a_right_answer(wanted: dict[str, Any], reply: Reply, problem: str | None) -> None:
    found = unmet(Question(ask="q", **wanted), reply)
    assert found == problem or (problem and found and problem in found)


class Scripted:
    """A stand-in for a server that gives the replies of a list, one a question."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[bool, bool]] = []
        self.mutex, self.barrier = threading.Lock(), threading.Barrier(1)

    def ask(
        self, model: str, question: Question, within_s: float, *, stream: bool = True, logprobs: bool = False
    ) -> Reply:
        self.barrier.wait(100)
        with self.mutex:
            self.asked.append((stream, logprobs))
            reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def asking(server: Scripted, **wanted: Any) -> Reply:
    return ask(server, "tiny", Question(ask="q", **{"expect": "Paris", **wanted}), 5)  # type: ignore[arg-type]


def test_asked_once_and_streamed() -> None:
    server = Scripted(REPLY)
    assert asking(server) == REPLY
    assert server.asked == [(True, False)]


def test_tokens_are_known_by_their_log_probabilities() -> None:
    server = Scripted(REPLY)
    asking(server, tokens=("It",))
    assert server.asked == [(True, True)]


def test_several_at_once_are_really_asked_at_once() -> None:
    server = Scripted(*[REPLY] * 4)
    server.barrier = threading.Barrier(4)
    answer = asking(server, at_once=4).answer
    assert len(server.asked) == 4
    assert (answer.at_once, answer.tokens, answer.text) == (4, 16, ANSWER.text)


def test_one_wrong_answer_of_several_is_wrong() -> None:
    with pytest.raises(WrongAnswerError, match="Rome") as caught:
        asking(Scripted(REPLY, replying("Rome"), REPLY), at_once=3)
    assert caught.value.answer.text == "Rome"


def test_one_failure_of_several_is_one() -> None:
    with pytest.raises(ServerError):
        asking(Scripted(REPLY, ServerError("dead")), at_once=2)


def test_the_same_text_without_streaming() -> None:
    server = Scripted(REPLY, REPLY)
    assert asking(server, also_whole=True) == REPLY
    assert server.asked == [(True, False), (False, False)]


def test_another_text_without_streaming() -> None:
    with pytest.raises(WrongAnswerError, match="the same text without streaming") as caught:
        asking(Scripted(REPLY, replying("It is Paris")), also_whole=True)
    assert caught.value.answer.text == "It is Paris"


def test_answers_given_at_once_are_measured_together() -> None:
    slow = dataclasses.replace(ANSWER, seconds=4.0, first_token_s=1.5)
    both = together([ANSWER, slow])
    assert (both.seconds, both.first_token_s, both.tokens) == (4.0, 1.5, 8)
    assert both.tokens_per_s == pytest.approx((8 - 2) / 3.5, abs=0.001)
    assert together([ANSWER]) is ANSWER
    silent = dataclasses.replace(ANSWER, tokens=0, first_token_s=None)
    assert together([silent, silent]).tokens_per_s is None

"""Asks a server a recipe's question and checks the answers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.host.concurrency import TaskGroup
from builder.recipe import guided_schema
from builder.remote.openai import EXCERPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.model.recipes import Question
    from builder.model.verdicts import Answer
    from builder.smoke.openai_client import Reply, ServerUnderTest

# An answer of this many tokens in one chunk was not streamed.
_STREAMED = 8


class WrongAnswerError(Exception):
    """The model's `answer` is wrong."""

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message)
        self.answer = answer


def ask(server: ServerUnderTest, model: str, question: Question, within_s: float, *, logprobs: bool = False) -> Reply:
    """Ask a question, in parallel and without streaming too if it demands so, and return the answer.

    Raises:
        ServerError: the server did not answer, or not in the protocol's form.
        WrongAnswerError: an answer does not meet the expectations.
    """
    logprobs = logprobs or bool(question.tokens)
    if question.at_once > 1:
        with TaskGroup(question.at_once) as group:
            replies = group.map(
                lambda _: server.ask(model, question, within_s, logprobs=logprobs), range(question.at_once)
            )
    else:
        replies = [server.ask(model, question, within_s, logprobs=logprobs)]
    for reply in replies:
        if problem := unmet(question, reply):
            raise WrongAnswerError(problem, reply.answer)
    if question.also_whole:
        streamed, complete = replies[0].answer, server.ask(model, question, within_s, stream=False).answer
        if complete.text != streamed.text:
            message = f"expected the same text without streaming: {streamed.text[:EXCERPT]!r}"
            raise WrongAnswerError(f"{message}; got: {complete.text[:EXCERPT]!r}", complete)
    return replace(replies[0], answer=together([reply.answer for reply in replies]))


def unmet(question: Question, reply: Reply) -> str | None:
    """Return the first expectation that an answer does not meet, or None."""
    return next(_misses(question, reply), None)


def _misses(question: Question, reply: Reply) -> Iterator[str]:
    text, tokens = reply.answer.text, [token.text for token in reply.tokens]
    reply_text = f"got: {text[:EXCERPT]!r}"
    if question.expect is not None and not re.search(question.expect, text):
        yield f"expected: {question.expect}; {reply_text}"
    if question.text is not None and text != question.text:
        yield f"expected exactly: {question.text[:EXCERPT]!r}; {reply_text}"
    first, expected = tokens[: len(question.tokens)], list(question.tokens)
    if first != expected:
        yield f"expected the tokens {expected}; got: {first}"
    if reply.answer.tokens < question.min_tokens:
        yield f"expected at least {question.min_tokens} tokens; got {reply.answer.tokens}: {text[:EXCERPT]!r}"
    if question.schema and (problem := guided_schema.unmet(text, question.schema)):
        yield f"expected JSON that matches the schema, but {problem}; {reply_text}"
    if reply.answer.tokens >= _STREAMED and reply.chunks == 1:
        yield f"expected a stream; got {reply.answer.tokens} tokens in one chunk"


def together(answers: Sequence[Answer]) -> Answer:
    """Merge answers to simultaneous requests: the sum of the tokens, the longest times."""
    if len(answers) == 1:
        return answers[0]
    tokens, seconds = sum(answer.tokens for answer in answers), max(answer.seconds for answer in answers)
    firsts = [answer.first_token_s for answer in answers if answer.first_token_s is not None]
    spread = seconds - min(firsts, default=seconds)
    return replace(
        answers[0],
        seconds=seconds,
        tokens=tokens,
        first_token_s=max(firsts, default=None),
        tokens_per_s=round((tokens - len(answers)) / spread, 3) if spread > 0 else None,
        at_once=len(answers),
    )

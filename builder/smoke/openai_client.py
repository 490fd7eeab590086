"""The server under test: its interfaces, and a recipe's questions in the OpenAI protocol.

`response_format` with a JSON schema is the only field for guided output that all vLLM versions from 0.6.3 on accept;
`guided_json` went with 0.12, `structured_outputs` came with 0.11 (entrypoints/openai, protocol.py of each).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from builder.host import records
from builder.model.verdicts import Answer, Token
from builder.remote.openai import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EXCERPT,
    OpenAIServer,
    ServerError,
    completion_body,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.model.recipes import Question
    from builder.remote.openai import StreamedAnswer

_OK = 200
_UNAUTHORIZED = 401
# A line of Prometheus's text format: name, labels, value.
_SAMPLE = re.compile(r"[A-Za-z_:][\w:]*(\{.*\})? \S+( \d+)?")
# The number of alternative tokens to request; vLLM's default limit is 20.
_TOP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A measured answer, with its tokens if their log-probabilities were requested; `chunks` are events with text."""

    answer: Answer
    tokens: tuple[Token, ...] = ()
    chunks: int = 1


class ServerUnderTest(OpenAIServer):
    """A server whose answers are checked."""

    __slots__ = ()

    def metrics(self, within_s: float = 60.0) -> int:
        """Return how many samples `/metrics` has, in the format of Prometheus.

        Raises:
            ServerError: `/metrics` has no samples, or other content.
        """
        text = self.get("/metrics", within_s).decode(errors="replace")
        lines = [line for line in text.splitlines() if line and line[0] != "#"]
        wrong = next((line for line in lines if not _SAMPLE.fullmatch(line)), None)
        if wrong is not None or not lines:
            raise ServerError(f"/metrics returned no Prometheus samples: {(wrong or 'nothing')[:EXCERPT]!r}")
        return len(lines)

    def check_refusal(self, within_s: float = 60.0) -> None:
        """Check that the server refuses requests without the key, or with a wrong one.

        Raises:
            ServerError: it accepts such a request.
        """
        for case, key in (("without a key", None), ("with a wrong key", "wrong")):
            status = _OK
            try:
                replace(self, key=key).get("/v1/models", within_s)
            except ServerError as error:
                if error.status is None:
                    raise
                status = error.status
            if status != _UNAUTHORIZED:
                raise ServerError(f"{case}, /v1/models answers with status {status}, not {_UNAUTHORIZED}")

    def ask(
        self, model: str, question: Question, within_s: float, *, stream: bool = True, logprobs: bool = False
    ) -> Reply:
        """Ask one question at temperature 0 and measure the answer; seconds.

        Raises:
            ServerError: no complete answer came within the time.
        """
        path = CHAT_COMPLETIONS if question.messages else COMPLETIONS
        body = _body(model, question, stream=stream, logprobs=logprobs)
        return _reply(question.title, self.complete(path, body, within_s))


def _body(model: str, question: Question, *, stream: bool, logprobs: bool) -> dict[str, Any]:
    body = completion_body(model, question.max_tokens, stream=stream)
    if question.messages:
        body["messages"] = records.to_json(question.messages)
        body |= {"logprobs": True, "top_logprobs": _TOP} if logprobs else {}
    else:
        body["prompt"] = question.prompt
        body |= {"logprobs": _TOP} if logprobs else {}
    if question.schema:
        schema = {"name": "answer", "schema": json.loads(question.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def measured_answer(title: str, text: str, tokens: int, seconds: float, times_s: Sequence[float]) -> Answer:
    """Return an answer to a question; `times_s` are the seconds until its tokens, in order."""
    spread = times_s[-1] - times_s[0] if times_s else 0.0
    return Answer(
        question=title,
        text=text,
        seconds=round(seconds, 3),
        tokens=tokens,
        first_token_s=round(times_s[0], 3) if times_s else None,
        tokens_per_s=round((tokens - 1) / spread, 3) if tokens > 1 and spread > 0 else None,
    )


def _reply(title: str, streamed: StreamedAnswer) -> Reply:
    answer = measured_answer(title, "".join(streamed.texts), streamed.tokens, streamed.seconds, streamed.times_s)
    try:
        tokens = tuple(token for logprobs in streamed.logprobs for token in _tokens(logprobs))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        text = json.dumps(streamed.logprobs)[:EXCERPT]
        raise ServerError(f"the log-probabilities do not follow the protocol: {text}") from error
    return Reply(answer=answer, tokens=tokens, chunks=len(streamed.times_s))


def _tokens(logprobs: dict[str, Any]) -> Iterator[Token]:
    """Yield the tokens with their log-probabilities; chats and completions have different formats."""
    for entry in logprobs.get("content") or ():
        likely = entry.get("top_logprobs") or ()
        top = tuple((str(candidate["token"]), float(candidate["logprob"])) for candidate in likely)
        yield Token(text=str(entry["token"]), logprob=float(entry["logprob"]), top=top)
    chosen = zip(logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), strict=True)
    candidates = logprobs.get("top_logprobs") or ()
    for index, (text, logprob) in enumerate(chosen):
        likely = (candidates[index] if candidates else None) or {}
        top = tuple((str(name), float(value)) for name, value in likely.items())
        yield Token(text=str(text), logprob=float(logprob), top=top)

"""The OpenAI protocol as vLLM speaks it: what a question is sent as, and how its answer is read.

`response_format` with a JSON schema is the one field for guided output that all vLLM versions from 0.6.3 on take;
`guided_json` went with 0.12, `structured_outputs` came with 0.11 (entrypoints/openai, protocol.py of each).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder import records
from builder.smoke.model import Answer, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.recipe.model import Question

SHOWN = 300
# The tokens beside the chosen one whose log-probabilities are asked for; vLLM gives at most 20 unless told otherwise.
_TOP = 5


class ServerError(Exception):
    """The server did not answer as it should; `timed_out` says that it was given up."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer as it came: measured, with its tokens where their log-probabilities were asked for."""

    answer: Answer
    tokens: tuple[Token, ...] = ()
    pieces: int = 1


def path(question: Question) -> str:
    """Return where a question is sent."""
    return "/v1/chat/completions" if question.messages else "/v1/completions"


def body(model: str, question: Question, *, stream: bool, logprobs: bool) -> dict[str, Any]:
    """Return a question as it is sent."""
    sent: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": question.max_tokens, "stream": stream}
    if question.messages:
        sent["messages"] = records.plain(question.messages)
        sent |= {"logprobs": True, "top_logprobs": _TOP} if logprobs else {}
    else:
        sent["prompt"] = question.prompt
        sent |= {"logprobs": _TOP} if logprobs else {}
    if stream:
        sent["stream_options"] = {"include_usage": True}
    if question.schema:
        named = {"name": "answer", "schema": json.loads(question.schema), "strict": True}
        sent["response_format"] = {"type": "json_schema", "json_schema": named}
    return sent


@dataclass(slots=True)
class Stream:
    """An answer as it comes in, with the seconds since the question at which its parts came."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    first_s: float | None = None
    last_s: float = 0.0
    pieces: int = 0
    counted: int | None = None
    complete: bool = False

    def take(self, event: dict[str, Any], now_s: float) -> None:
        """Add one event, or a whole answer.

        Raises:
            ServerError: it is an error, or something that no server should say.
        """
        if "error" in event:
            raise ServerError(f"the server reports an error: {json.dumps(event['error'])[:SHOWN]}")
        try:
            self.counted = (event.get("usage") or {}).get("completion_tokens", self.counted)
            for choice in event.get("choices") or ():
                self._take_choice(choice, now_s)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerError(f"the answer has not the protocol's form: {json.dumps(event)[:SHOWN]}") from error

    def _take_choice(self, choice: dict[str, Any], now_s: float) -> None:
        part = choice.get("delta") or choice.get("message") or {}
        text = part.get("content") or choice.get("text") or ""
        if text or part.get("reasoning_content") or part.get("reasoning"):
            self.first_s = now_s if self.first_s is None else self.first_s
            self.last_s = now_s
            self.pieces += 1
        self.texts.append(text)
        self.tokens.extend(_tokens(choice.get("logprobs") or {}))

    def reply(self, question: str, seconds: float) -> Reply:
        """Return what came, measured."""
        tokens = self.pieces if self.counted is None else self.counted
        spread = self.last_s - self.first_s if self.first_s is not None else 0.0
        answer = Answer(
            question=question,
            text="".join(self.texts),
            seconds=round(seconds, 3),
            tokens=tokens,
            first_token_s=None if self.first_s is None else round(self.first_s, 3),
            tokens_per_s=round((tokens - 1) / spread, 3) if tokens > 1 and spread > 0 else None,
        )
        return Reply(answer=answer, tokens=tuple(self.tokens), pieces=self.pieces)


def _tokens(logprobs: dict[str, Any]) -> Iterator[Token]:
    """Yield the tokens with their log-probabilities, which chats and completions write differently."""
    for entry in logprobs.get("content") or ():
        top = tuple((str(other["token"]), float(other["logprob"])) for other in entry.get("top_logprobs") or ())
        yield Token(text=str(entry["token"]), logprob=float(entry["logprob"]), top=top)
    plain = zip(logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), strict=True)
    others = logprobs.get("top_logprobs") or ()
    for index, (text, logprob) in enumerate(plain):
        top = tuple((str(name), float(value)) for name, value in (others[index] or {}).items()) if others else ()
        yield Token(text=str(text), logprob=float(logprob), top=top)

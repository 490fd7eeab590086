"""Talks to the server under test as its users will: the OpenAI protocol, streamed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

from builder.smoke.model import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.recipe.model import Question

_CONNECT_S = 5.0
_SHOWN = 300
_OK = 200


class ServerError(Exception):
    """The server did not answer as it should."""


@dataclass(slots=True)
class _Stream:
    """A chat completion as it comes in, with the seconds since the question at which its parts came."""

    texts: list[str] = field(default_factory=list)
    first_s: float | None = None
    last_s: float = 0.0
    pieces: int = 0
    tokens: int | None = None
    complete: bool = False

    def take(self, event: dict[str, Any], now_s: float) -> None:
        """Add one event."""
        if "error" in event:
            raise ServerError(f"the server reports an error: {json.dumps(event['error'])[:_SHOWN]}")
        usage = event.get("usage") or {}
        self.tokens = usage.get("completion_tokens", self.tokens)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text = delta.get("content") or ""
            if text or delta.get("reasoning_content") or delta.get("reasoning"):
                self.first_s = now_s if self.first_s is None else self.first_s
                self.last_s = now_s
                self.pieces += 1
            self.texts.append(text)

    def answer(self, question: str, seconds: float) -> Answer:
        """Return what came, measured."""
        tokens = self.pieces if self.tokens is None else self.tokens
        spread = self.last_s - self.first_s if self.first_s is not None else 0.0
        return Answer(
            question=question,
            text="".join(self.texts),
            seconds=round(seconds, 3),
            tokens=tokens,
            first_token_s=None if self.first_s is None else round(self.first_s, 3),
            tokens_per_s=round((tokens - 1) / spread, 3) if tokens > 1 and spread > 0 else None,
        )


class Server:
    """An OpenAI server at an address."""

    def __init__(self, address: str, key: str | None = None) -> None:
        """Talk to `http://host:port`, with an API key if the server wants one."""
        self.address = address
        self._session = requests.Session()
        # A proxy of this machine cannot reach the container, and .netrc knows nothing about it.
        self._session.trust_env = False
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def is_healthy(self, timeout_s: float = 5.0) -> bool:
        """Return whether `/health` answers well."""
        try:
            return self._session.get(f"{self.address}/health", timeout=(_CONNECT_S, timeout_s)).status_code == _OK
        except requests.RequestException:
            return False

    def models(self, timeout_s: float = 60.0) -> tuple[str, ...]:
        """Return the names under which models are served.

        Raises:
            ServerError: `/v1/models` does not answer as it should.
        """
        try:
            response = self._session.get(f"{self.address}/v1/models", timeout=(_CONNECT_S, timeout_s))
            _check(response)
            return tuple(str(model["id"]) for model in response.json()["data"])
        except (KeyError, TypeError, ValueError) as error:  # requests' JSON errors are ValueErrors too
            raise ServerError("/v1/models answers something else than a list of models") from error
        except requests.RequestException as error:
            raise ServerError(f"/v1/models does not answer: {_reason(error)}") from error

    def ask(self, model: str, question: Question, within_s: float) -> Answer:
        """Ask one question at temperature 0 and measure the answer as it is streamed.

        Raises:
            ServerError: no complete answer came within the time.
        """
        began = time.monotonic()
        stream = _Stream()
        try:
            with self._post(_body(model, question), within_s) as response:
                for event in _events(response):
                    now_s = time.monotonic() - began
                    if now_s > within_s:
                        raise ServerError(f"no complete answer within {within_s:.0f} s")
                    if event is None:
                        stream.complete = True
                        break
                    stream.take(event, now_s)
        except requests.RequestException as error:
            raise ServerError(f"the connection failed while the model was answering: {_reason(error)}") from error
        if not stream.complete:
            raise ServerError("the answer's stream ended before it was complete")
        return stream.answer(question.ask, time.monotonic() - began)

    def _post(self, body: dict[str, Any], within_s: float) -> requests.Response:
        url = f"{self.address}/v1/chat/completions"
        try:
            response = self._session.post(url, json=body, stream=True, timeout=(_CONNECT_S, within_s))
        except requests.ReadTimeout:
            raise ServerError(f"no answer within {within_s:.0f} s") from None
        _check(response)
        return response


def _body(model: str, question: Question) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": question.ask}],
        "temperature": 0,
        "max_tokens": question.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _events(response: requests.Response) -> Iterator[dict[str, Any] | None]:
    """Yield the stream's events; None is its regular end."""
    for line in response.iter_lines(chunk_size=1):
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            yield None
            return
        try:
            event = json.loads(data)
        except ValueError:
            raise ServerError(f"the stream holds something else than JSON: {data[:_SHOWN]!r}") from None
        if not isinstance(event, dict):
            raise ServerError(f"the stream holds something else than objects: {data[:_SHOWN]!r}")
        yield event


def _check(response: requests.Response) -> None:
    if response.status_code != _OK:
        path, status = response.request.path_url, response.status_code
        raise ServerError(f"{path} answers with status {status}: {response.text[:_SHOWN]}")


def _reason(error: requests.RequestException) -> str:
    """Return the innermost reason: the outer ones repeat the address."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(inner) or type(inner).__name__

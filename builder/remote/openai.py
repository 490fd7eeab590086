"""OpenAI servers: requests over HTTP, and answers as streams of server-sent events.

An event is a line `data: JSON`; the line `data: [DONE]` ends the stream (OpenAI's API reference, "Streaming").
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# Characters of an unexpected answer that messages quote.
EXCERPT = 300
CHAT_COMPLETIONS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_OK = 200
_DATA = b"data:"


class ServerError(Exception):
    """The server did not answer as it should.

    `status` is its HTTP status if that was the reason; `timed_out` tells that it was too slow.
    """

    def __init__(self, message: str, *, status: int | None = None, timed_out: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.timed_out = timed_out


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model in `/v1/models`; `root` is vLLM's field for the model's folder."""

    name: str
    root: str | None = None


@dataclass(slots=True)
class StreamedAnswer:
    """An answer as it arrives.

    `times_s` are the seconds from the request to each event with text; `seconds` is the time to the end. The server
    need not report `input_tokens` and `output_tokens`. `logprobs` are objects of the protocol, one for each choice.
    """

    texts: list[str] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """The number of tokens; of events with text if the server does not report it."""
        return len(self.times_s) if self.output_tokens is None else self.output_tokens

    def add(self, event: dict[str, Any], now_s: float) -> None:
        """Add an event, or a whole answer.

        Raises:
            ServerError: the event reports an error, or does not follow the protocol.
        """
        if "error" in event:
            raise ServerError(f"the server reports an error: {json.dumps(event['error'])[:EXCERPT]}")
        try:
            usage = event.get("usage") or {}
            self.input_tokens = usage.get("prompt_tokens", self.input_tokens)
            self.output_tokens = usage.get("completion_tokens", self.output_tokens)
            for choice in event.get("choices") or ():
                self._add_choice(choice, now_s)
        except (AttributeError, TypeError) as error:
            raise ServerError(f"the answer has not the protocol's form: {json.dumps(event)[:EXCERPT]}") from error

    def _add_choice(self, choice: dict[str, Any], now_s: float) -> None:
        message = choice.get("delta") or choice.get("message") or {}
        text = message.get("content") or choice.get("text") or ""
        if text or message.get("reasoning_content") or message.get("reasoning"):
            self.times_s.append(now_s)
        self.texts.append(text)
        if choice.get("logprobs"):
            self.logprobs.append(choice["logprobs"])


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenAIServer:
    """A server at `http(s)://HOST[:PORT][/PATH]`, without `/v1`; `ca` is a PEM file with its authority.

    Proxies and `.netrc` do not apply. Every request has its own connection, so threads may share a server.
    """

    url: str
    key: str | None = None
    ca: Path | None = None

    def is_healthy(self, within_s: float = 5.0) -> bool:
        """Return whether `/health` answers with status 200."""
        try:
            self.get("/health", within_s)
        except ServerError:
            return False
        return True

    def models(self, within_s: float = 60.0) -> tuple[ServedModel, ...]:
        """Return the served models.

        Raises:
            ServerError: `/v1/models` does not answer as it should.
        """
        try:
            rows = json.loads(self.get("/v1/models", within_s))["data"]
            return tuple(ServedModel(name=str(row["id"]), root=row.get("root")) for row in rows)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ServerError("/v1/models answers something other than a list of models") from error

    def get(self, path: str, within_s: float) -> bytes:
        """Return the body at a path; `within_s` limits every wait for the server.

        Raises:
            ServerError: there is no answer, or its status is not 200.
        """
        try:
            with self._request("GET", path, None, within_s) as response:
                return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{path} does not answer: {_reason(error)}") from error

    def complete(self, path: str, body: dict[str, Any], within_s: float) -> StreamedAnswer:
        """Post a request for a completion; `body["stream"]` decides whether the answer comes as events.

        Raises:
            ServerError: no complete answer came within the time.
        """
        answer, data = StreamedAnswer(), json.dumps(body).encode()
        silence, start_s = f"no answer within {within_s:.0f} s", time.monotonic()
        try:
            with self._request("POST", path, data, within_s) as response:
                silence = f"the answer was incomplete after {within_s:.0f} s"
                lines = _in_time(response, start_s, within_s)
                events = read_events(lines) if body["stream"] else iter([_object(b"".join(lines), "the answer is")])
                for event in events:
                    answer.add(event, time.monotonic() - start_s)
        except TimeoutError as error:
            raise ServerError(silence, timed_out=True) from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"the connection failed while the model was answering: {_reason(error)}") from error
        answer.seconds = time.monotonic() - start_s
        return answer

    @contextmanager
    def _request(
        self, method: str, path: str, data: bytes | None, within_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        url = urlsplit(self.url)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        connection = http.client.HTTPConnection(url.netloc, timeout=within_s)
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
            connection = http.client.HTTPSConnection(url.netloc, timeout=within_s, context=context)
        try:
            target = url.path.rstrip("/") + path
            connection.request(method, target, data, headers | ({"Content-Type": "application/json"} if data else {}))
            response = connection.getresponse()
            if response.status != _OK:
                text = response.read().decode(errors="replace")[:EXCERPT]
                message = f"{path} answers with status {response.status}: {text}"
                raise ServerError(message, status=response.status)
            yield response
        finally:
            connection.close()


def completion_body(model: str, max_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    """Return the fields of a request that do not depend on its question."""
    body = {"model": model, "temperature": 0, "max_tokens": max_tokens, "stream": stream}
    return body | ({"stream_options": {"include_usage": True}} if stream else {})


def read_events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream.

    Raises:
        ServerError: an event is not a JSON object, or the stream ends without `[DONE]`.
    """
    for line in lines:
        if not line.startswith(_DATA):
            continue
        data = line[len(_DATA) :].strip()
        if data == b"[DONE]":
            return
        yield _object(data, "the stream holds")
    raise ServerError("the answer's stream ended before it was complete")


def _in_time(lines: Iterable[bytes], start_s: float, within_s: float) -> Iterator[bytes]:
    for line in lines:
        if time.monotonic() - start_s > within_s:
            raise ServerError(f"no complete answer within {within_s:.0f} s", timed_out=True)
        yield line


def _object(data: bytes, subject: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ServerError(f"{subject} something other than JSON: {data[:EXCERPT]!r}") from None
    if not isinstance(value, dict):
        raise ServerError(f"{subject} something other than objects: {data[:EXCERPT]!r}")
    return value


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__

"""jbuild's own client: streams answers of an OpenAI server, several at once, and notes when each token comes."""

from __future__ import annotations

import http.client
import json
import random
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from builder.bench.statistics import Sample, step_of
from builder.errors import SmokeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.bench.model import Load, Step

_OK, _BAD_REQUEST, _UNAUTHORIZED = 200, 400, 401
_SHOWN = 200
# Words that are one token each in most vocabularies.
_WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """An OpenAI server: `http(s)://host[:port][/path]` without `/v1`, its API key, and who vouches for its name."""

    url: str
    key: str | None = None
    ca: Path | None = None

    def open(self, within_s: float) -> http.client.HTTPConnection:
        """Return a connection of its own."""
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
            return http.client.HTTPSConnection(parts.netloc, timeout=within_s, context=context)
        return http.client.HTTPConnection(parts.netloc, timeout=within_s)

    def path(self, name: str) -> str:
        """Return the path of one of the protocol's addresses."""
        return f"{urlsplit(self.url).path.rstrip('/')}/v1/{name}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        own = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"Content-Type": "application/json", **own}


def check_url(url: str) -> str:
    """Return a server's address without `/v1` and a closing slash.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or "@" in parts.netloc:
        raise UsageError(f"`{url[:_SHOWN]}` is no server's address", hint="write http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


def served_model(server: Server, within_s: float = 30.0) -> tuple[str, str | None]:
    """Return the first model's name, and what the server calls its root: for vLLM the model's folder.

    Raises:
        SmokeError: the server does not tell.
    """
    connection = server.open(within_s)
    try:
        connection.request("GET", server.path("models"), headers=server.headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != _OK:
            raise _refused(server, response.status, content)
        first = json.loads(content)["data"][0]
        return str(first["id"]), first.get("root")
    except (OSError, http.client.HTTPException) as error:
        raise SmokeError(f"the server does not answer: {error}", where=server.url, hint="is it ready?") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SmokeError("its list of models is none", where=server.url, hint="is it an OpenAI server?") from error
    finally:
        connection.close()


def measure(
    server: Server, model: str, load: Load, concurrency: int, on_answer: Callable[[float], object] = lambda _: None
) -> Step:
    """Ask all prompts, so many at once, after one that does not count.

    Raises:
        SmokeError: the first question was not answered.
    """
    prompts = list(_prompts(load, concurrency))
    body = partial(_body, model, load, ignore_eos=True)
    first = _ask(server, body(prompts[0]), load.within_s)
    if first.failure and f"status {_BAD_REQUEST}" in first.failure:
        # Not every server knows vLLM's own field.
        body = partial(_body, model, load, ignore_eos=False)
        first = _ask(server, body(prompts[0]), load.within_s)
    if first.failure:
        raise SmokeError(
            f"the first question was not answered: {first.failure}", where=server.url, hint=_hint(first.failure)
        )

    def ask(prompt: str) -> Sample:
        sample = _ask(server, body(prompt), load.within_s)
        on_answer(1)
        return sample

    with ThreadPoolExecutor(concurrency) as pool:
        began = time.monotonic()
        samples = list(pool.map(ask, prompts[1:]))
        seconds = time.monotonic() - began
    return step_of(samples, concurrency, seconds)


def _prompts(load: Load, concurrency: int) -> Iterator[str]:
    """Yield one prompt more than asked for, the same in every run, no two with the same beginning."""
    chance = random.Random(concurrency)  # noqa: S311  # no secret
    for number in range(load.prompts + 1):
        words = chance.choices(_WORDS, k=max(1, load.input_length - 2))
        yield " ".join([str(number), *words])


def _body(model: str, load: Load, prompt: str, *, ignore_eos: bool) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": load.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body | ({"ignore_eos": True} if ignore_eos else {})).encode()


def _ask(server: Server, body: bytes, within_s: float) -> Sample:
    connection, sample = server.open(within_s), Sample()
    began = time.monotonic()
    try:
        connection.request("POST", server.path("chat/completions"), body=body, headers=server.headers)
        response = connection.getresponse()
        if response.status != _OK:
            sample.failure = f"status {response.status}: {_text(response.read())}"
            return sample
        _read(response, sample, began, within_s)
    except (TypeError, AttributeError):
        sample.failure = "its answer is no stream of completions"
    except (OSError, http.client.HTTPException, ValueError) as error:
        sample.failure = str(error) or type(error).__name__
    finally:
        connection.close()
    return sample


def _read(response: http.client.HTTPResponse, sample: Sample, began: float, within_s: float) -> None:
    """Take a stream in, event by event; what comes without the regular end is no answer."""
    while line := response.readline():
        now_s = time.monotonic() - began
        if now_s > within_s:
            raise TimeoutError(f"no complete answer within {within_s:.0f} s")
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            sample.output_tokens = sample.output_tokens or len(sample.times_s)
            return
        _take(json.loads(data), sample, now_s)
    raise ValueError("the answer's stream ended before it was complete")


def _take(event: dict[str, Any], sample: Sample, now_s: float) -> None:
    if "error" in event:
        raise ValueError(f"the server reports an error: {_text(json.dumps(event['error']).encode())}")
    usage = event.get("usage") or {}
    sample.output_tokens = usage.get("completion_tokens", sample.output_tokens)
    sample.input_tokens = usage.get("prompt_tokens", sample.input_tokens)
    deltas = [choice.get("delta") or {} for choice in event.get("choices") or ()]
    if any(delta.get(part) for delta in deltas for part in ("content", "reasoning", "reasoning_content")):
        sample.times_s.append(now_s)


def _refused(server: Server, status: int, content: bytes) -> SmokeError:
    said = f"status {status}"
    return SmokeError(f"the server answers with {said}: {_text(content)}", where=server.url, hint=_hint(said))


def _hint(failure: str) -> str:
    if f"status {_UNAUTHORIZED}" in failure:
        return "it wants an API key: set VLLM_API_KEY, or add --key-file FILE"
    return "see the server's log"


def _text(content: bytes) -> str:
    return content[:_SHOWN].decode(errors="replace")

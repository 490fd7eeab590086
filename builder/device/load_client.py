"""jbuild's own client: it streams answers of an OpenAI server, several at once, and measures when tokens arrive."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.errors import SmokeError, UsageError
from builder.host.concurrency import TaskGroup
from builder.remote.openai import CHAT_COMPLETIONS, ServerError, StreamedAnswer, completion_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from builder.remote.openai import OpenAIServer, ServedModel

_BAD_REQUEST, _UNAUTHORIZED = 400, 401
_SHOWN = 200
# Each of these words is one token in most vocabularies.
_WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The load of one measurement: prompts, words of a prompt, tokens of an answer, and the time limit of an answer."""

    prompts: int = 32
    input_length: int = 128
    output_tokens: int = 128
    within_s: float = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Percentiles of a latency, in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadStep:
    """The measurement at one concurrency.

    `seconds` is the time from the first question to the last answer; rates are means over it. `first_token_ms` is the
    time to the first token, `between_tokens_ms` the time between tokens; None without any. `failures` are the distinct
    reasons of the `failed` requests.
    """

    concurrency: int
    answered: int
    failed: int
    seconds: float
    input_tokens: int
    output_tokens: int
    requests_per_s: float
    tokens_per_s: float
    first_token_ms: Percentiles | None
    between_tokens_ms: Percentiles | None
    failures: tuple[str, ...] = ()


def check_url(url: str) -> str:
    """Return a server's address without `/v1` and a closing slash.

    Raises:
        UsageError: the text is not such an address.
    """
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError:
        parsed, port = urlsplit(""), None
    is_http = parsed.scheme in ("http", "https") and parsed.hostname and port != 0
    if not is_http or parsed.query or "@" in parsed.netloc:
        raise UsageError(f"`{url[:_SHOWN]}` is not the address of a server", hint="write http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


def served_model(server: OpenAIServer, within_s: float = 30.0) -> ServedModel:
    """Return the first model that a server serves.

    Raises:
        SmokeError: the server does not answer, or lists no model.
    """
    try:
        models = server.models(within_s)
    except ServerError as error:
        raise _smoke_error(server, str(error), error, "is it ready, and an OpenAI server?") from error
    if not models:
        raise SmokeError("its list of models is empty", where=server.url, hint="is it an OpenAI server?")
    return models[0]


def measure(
    server: OpenAIServer,
    model: str,
    load: Load,
    concurrency: int,
    on_answer: Callable[[float], object] = lambda _: None,
) -> LoadStep:
    """Send one prompt that does not count, then all others, `concurrency` at once.

    Raises:
        SmokeError: the server did not answer the first prompt.
    """
    first, *prompts = _prompts(load, concurrency)
    body = completion_body(model, load.output_tokens) | {"ignore_eos": True}

    def ask(prompt: str) -> StreamedAnswer | ServerError:
        try:
            messages = [{"role": "user", "content": prompt}]
            return server.complete(CHAT_COMPLETIONS, body | {"messages": messages}, load.within_s)
        except ServerError as error:
            return error

    def ask_and_count(prompt: str) -> StreamedAnswer | ServerError:
        answer = ask(prompt)
        on_answer(1)
        return answer

    answer = ask(first)
    if isinstance(answer, ServerError) and answer.status == _BAD_REQUEST:
        # Not every server accepts vLLM's own field.
        del body["ignore_eos"]
        answer = ask(first)
    if isinstance(answer, ServerError):
        raise _smoke_error(server, f"the first question was not answered: {answer}", answer, "see the server's log")
    with TaskGroup(concurrency) as group:
        start_s = time.monotonic()
        answers = group.map(ask_and_count, prompts)
        seconds = time.monotonic() - start_s
    return step_of(answers, concurrency, seconds)


def _prompts(load: Load, concurrency: int) -> Iterator[str]:
    """Yield one prompt more than the load has: the same prompts in every run, each with its own beginning."""
    chance = random.Random(concurrency)  # noqa: S311  # no secret
    for number in range(load.prompts + 1):
        words = chance.choices(_WORDS, k=max(1, load.input_length - 2))
        yield " ".join([str(number), *words])


def _smoke_error(server: OpenAIServer, message: str, error: ServerError, hint: str) -> SmokeError:
    if error.status == _UNAUTHORIZED:
        hint = "it requires an API key: set VLLM_API_KEY, or add --key-file FILE"
    return SmokeError(message, where=server.url, hint=hint)


def step_of(answers: Sequence[StreamedAnswer | ServerError], concurrency: int, seconds: float) -> LoadStep:
    """Return the measurement from all answers and failures of a period, in seconds."""
    good = [answer for answer in answers if isinstance(answer, StreamedAnswer)]
    failures = [str(answer) for answer in answers if isinstance(answer, ServerError)]
    tokens = sum(answer.tokens for answer in good)
    gaps = [later - earlier for a in good for earlier, later in zip(a.times_s, a.times_s[1:], strict=False)]
    return LoadStep(
        concurrency=concurrency,
        answered=len(good),
        failed=len(failures),
        seconds=round(seconds, 3),
        input_tokens=sum(answer.input_tokens or 0 for answer in good),
        output_tokens=tokens,
        requests_per_s=round(len(good) / seconds, 4),
        tokens_per_s=round(tokens / seconds, 3),
        first_token_ms=percentiles([answer.times_s[0] for answer in good if answer.times_s]),
        between_tokens_ms=percentiles(gaps),
        failures=tuple(dict.fromkeys(failures)),
    )


def percentiles(values_s: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of seconds, interpolated linearly as NumPy does by default; None without values."""
    if not values_s:
        return None
    # Before Python 3.13, `quantiles` refuses a single value.
    cuts = statistics.quantiles(values_s if len(values_s) > 1 else [*values_s] * 2, n=100, method="inclusive")
    p50, p95, p99 = (round(1000 * cuts[percent - 1], 3) for percent in (50, 95, 99))
    return Percentiles(p50=p50, p95=p95, p99=p99)

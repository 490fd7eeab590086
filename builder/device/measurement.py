"""The records of a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# vLLM's own benchmark inside the image, or jbuild's client from outside.
Client = Literal["vllm bench serve", "jbuild"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is asked at each concurrency: how many prompts of how many words, and how many tokens each answer has.

    `within_s` is how long one answer may take.
    """

    prompts: int = 32
    input_length: int = 128
    output_tokens: int = 128
    within_s: float = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Of a latency, in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadStep:
    """What was measured at one concurrency.

    `seconds` is from the first question to the last answer; rates are over all of it. `first_token_ms` is the time to
    the first token, `between_tokens_ms` from one to the next; None where no answer had them. `failures` are the
    distinct reasons of those that `failed`.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A measurement of one server.

    `subject` is an image or an address, `level` where it ran as a verdict's is (None: not known), `when` UTC, ISO 8601.
    `remarks` tell why this client was used, and what else is to be known.
    """

    subject: str
    model: str
    client: Client
    level: str | None
    when: str
    load: Load
    steps: tuple[LoadStep, ...]
    ready_s: float | None = None
    remarks: tuple[str, ...] = ()

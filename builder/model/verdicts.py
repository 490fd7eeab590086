"""The records of a smoke run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.errors import SmokeError

# What was proved, and where (builder/recipe/levels.toml).
Level = Literal["gpu", "cpu", "emulated", "emulated-forward"]
Step = Literal[
    "start",
    "modules",
    "forward",
    "gpu",
    "ready",
    "health check",
    "api key",
    "models",
    "question",
    "metrics",
    "stop",
    "bounds",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token of an answer: its text, its log-probability, and those of the likeliest tokens in its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far an answer is the golden one: for how many tokens, the largest difference in nats, what stops it."""

    tokens: int
    worst: float
    difference: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model said to one question, and how fast.

    Asked several times at once, it is the first one's text, the tokens of all, and the times of all together.
    `first_token_s` and `tokens_per_s` (of the tokens after the first) are None where too few tokens came to tell.
    """

    question: str
    text: str
    seconds: float
    tokens: int
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    at_once: int = 1
    golden: Agreement | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedModule:
    """An extension module that does not load, and what it lacks: a library, or what the loader says."""

    file: str
    lacks: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Modules:
    """The image's extension modules: how many load, which could not be tried without the GPU's driver, which fail.

    `optional` ones fail too, but are tried by packages that go without them, or the recipe waives what they lack.
    """

    loaded: int
    need_driver: tuple[FailedModule, ...] = ()
    optional: tuple[FailedModule, ...] = ()
    broken: tuple[FailedModule, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuComputation:
    """What torch computed on a GPU: its name and SM, what torch was built for, and how far each result was off.

    Errors are norms relative to the CPU's result in float64, None where the computation itself failed.
    """

    device: str
    sm: str
    arch_list: tuple[str, ...]
    errors: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a smoke run saw.

    Attributes:
        level: where it ran, found out from the engine.
        digest: the image's.
        passed: whether every step went well; else `step` and `failure` say what went wrong.
        ready_s: seconds from the container's start to the server's readiness; without a server, to the loaded model.
        stop_s: seconds from SIGTERM to the container's end.
        peak_memory_bytes: the most memory that the container used at once.
        modules: what became of its extension modules, where no server could be asked.
        gpu: what the GPU computed, at that level.
        image_bytes: the image's size as a registry stores it.
        symptoms: what known troubles its log tells of, also of a run that passed.
        warnings: what else is not as it should be: errors in the log, and what is worse than the last time.
        log: the container's whole log.
        when: UTC, ISO 8601.
    """

    level: Level
    digest: str
    passed: bool
    when: str
    log: Path
    answers: tuple[Answer, ...] = ()
    ready_s: float | None = None
    stop_s: float | None = None
    peak_memory_bytes: int | None = None
    image_bytes: int | None = None
    modules: Modules | None = None
    gpu: GpuComputation | None = None
    symptoms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    step: Step | None = None
    failure: str | None = None


class SmokeFailedError(SmokeError):
    """The image did not prove itself; `verdict` is the record of it."""

    def __init__(self, message: str, *, verdict: Verdict, where: str, hint: str, log: str) -> None:
        super().__init__(message, where=where, hint=hint, log=log)
        self.verdict = verdict
        self.record = verdict

    def as_json(self) -> dict[str, object]:
        """Return the error with the step that failed."""
        return {**super().as_json(), "step": self.verdict.step, "level": self.verdict.level}

"""The records of a smoke run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.errors import SmokeError

# Where a verdict was obtained: NVIDIA's runtime, the image's own architecture without it, or emulation of it.
Level = Literal["gpu", "cpu", "emulated"]
Step = Literal["start", "ready", "health check", "models", "question", "stop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model said to one question, and how fast.

    `first_token_s` and `tokens_per_s` (of the tokens after the first) are None where too few tokens came to tell.
    """

    question: str
    text: str
    seconds: float
    tokens: int
    first_token_s: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a smoke run saw.

    Attributes:
        level: where it ran, found out from the engine.
        digest: the image's.
        passed: whether every step went well; else `step` and `failure` say what went wrong.
        ready_s: seconds from the container's start to the server's readiness.
        stop_s: seconds from SIGTERM to the container's end.
        peak_memory_bytes: the most memory that the container used at once.
        symptoms: what known troubles its log tells of, also of a run that passed.
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
    symptoms: tuple[str, ...] = ()
    step: Step | None = None
    failure: str | None = None


class SmokeFailedError(SmokeError):
    """The image did not prove itself; `verdict` is the record of it."""

    def __init__(self, message: str, *, verdict: Verdict, where: str, hint: str, log: str) -> None:
        super().__init__(message, where=where, hint=hint, log=log)
        self.verdict = verdict

    def as_json(self) -> dict[str, object]:
        """Return the error with the step that failed."""
        return {**super().as_json(), "step": self.verdict.step, "level": self.verdict.level}

"""The records of a smoke run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder.errors import SmokeError

# The levels of builder/recipe/levels.toml.
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
    """A token of an answer: its text and log-probability, and the likeliest tokens with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """The agreement of an answer with the golden one: tokens, largest difference in nats, first difference."""

    tokens: int
    worst: float
    difference: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The model's answer to a question, and its speed.

    Of several answers at once, it has the first one's text, and the tokens and times of all together. `first_token_s`
    and `tokens_per_s` (of the tokens after the first) are None if there are too few tokens.
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
    """An extension module that does not load, and what it lacks: a library, or the loader's message."""

    file: str
    lacks: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Modules:
    """The image's extension modules: the number that load, and those that need the GPU's driver or fail.

    `optional` ones fail too, but their packages work without them, or the recipe waives the finding.
    """

    loaded: int
    need_driver: tuple[FailedModule, ...] = ()
    optional: tuple[FailedModule, ...] = ()
    broken: tuple[FailedModule, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuComputation:
    """A computation of torch on a GPU: its name and SM, torch's architectures, and the error of each result.

    Errors are norms relative to the CPU's result in float64, None if the computation failed.
    """

    device: str
    sm: str
    arch_list: tuple[str, ...]
    errors: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledCount:
    """Files that a start compiled: what a cache holds, and the number of its new files."""

    of: str
    files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Compilations:
    """What a server compiled from its start to its end: new files, and lines of its log that report a compilation."""

    files: tuple[CompiledCount, ...] = ()
    lines: int = 0

    def __str__(self) -> str:
        """Return the counts, such as `Triton kernels (12), lines of the log (2)`; `nothing` without any."""
        counts = [f"{row.of} ({row.files})" for row in self.files]
        counts += [f"lines of the log ({self.lines})"] if self.lines else []
        return ", ".join(counts) or "nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """A start of the image with a layer of the files that the run before compiled.

    `digest` is the warm image's, `size` the layer's compressed bytes; `failure` is why there is no warm image.
    """

    digest: str | None = None
    size: int | None = None
    ready_s: float | None = None
    compilations: Compilations | None = None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of a smoke run.

    Attributes:
        level: the level of the engine that it ran on.
        digest: the image's.
        passed: whether all steps passed; else `step` and `failure` describe the failure.
        ready_s: seconds from the container's start to the server's readiness; without a server, to the loaded model.
        stop_s: seconds from SIGTERM to the container's end.
        peak_memory_bytes: the container's.
        modules: the extension modules, if there was no server.
        gpu: the GPU's computation, at its level.
        image_bytes: the image's size in a registry.
        emulation: the settings and aids of this run that serve emulation only.
        compilations: what the server compiled; None without a server.
        warm: the start with these files in a layer, if the recipe wants a warm image.
        symptoms: known problems in the log, also of a run that passed.
        warnings: errors in the log, and regressions from the last run.
        log: the file of the container's log.
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
    emulation: tuple[str, ...] = ()
    compilations: Compilations | None = field(default=None, metadata={"json": "optional"})
    warm: WarmStart | None = field(default=None, metadata={"json": "optional"})
    symptoms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    step: Step | None = None
    failure: str | None = None


class SmokeFailedError(SmokeError):
    """The image failed its smoke run; `verdict` is its record."""

    def __init__(self, message: str, *, verdict: Verdict, where: str, hint: str, log: str) -> None:
        super().__init__(message, where=where, hint=hint, log=log)
        self.verdict = verdict
        self.record = verdict

    def as_json(self) -> dict[str, object]:
        """Return the error with the step that failed."""
        return {**super().as_json(), "step": self.verdict.step, "level": self.verdict.level}

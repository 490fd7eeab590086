"""From what a smoke run has seen to its verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from builder.jetson import symptoms
from builder.smoke import level, logs
from builder.smoke.model import SmokeFailedError, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.image.model import Image
    from builder.smoke.failure import StepFailedError
    from builder.smoke.steps import Run


def judge(run: Run, image: Image, log: Path, failed: StepFailedError | None) -> Verdict:
    """Return the verdict of a run that went well.

    Raises:
        SmokeFailedError: it did not; the error carries the verdict, what usually helps and the log's end.
    """
    read = logs.read(log)
    seen = symptoms.find((*read.lines, *([failed.message] if failed else ())))
    verdict = Verdict(
        level=level.level(replace(level.facts(image, run.engine), nvidia=run.runtime == level.NVIDIA)),
        digest=image.digest,
        passed=failed is None,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        log=log,
        answers=tuple(run.answers),
        ready_s=run.ready_s,
        stop_s=run.stop_s,
        peak_memory_bytes=run.peak_memory_bytes,
        image_bytes=image.size,
        modules=run.modules,
        gpu=run.gpu,
        symptoms=tuple(symptom.says for symptom in seen),
        warnings=read.errors,
        step=failed.step if failed else None,
        failure=failed.message if failed else None,
    )
    if failed is None:
        for symptom in seen:
            run.console.warn(f"{run.name}: passed, but its log says: {symptom.says} ({symptom.hint})")
        for line in read.errors:
            run.console.warn(f"{run.name}: passed, but its log has an error: {line}")
        return verdict
    raise SmokeFailedError(
        ": ".join([f"smoke: {failed.message}", *verdict.symptoms[:1]]),
        verdict=verdict,
        where=run.launch.reference,
        hint="; ".join(_advice(failed, seen, log)),
        log=run.tail,
    )


def _advice(failed: StepFailedError, seen: tuple[symptoms.Symptom, ...], log: Path) -> Iterator[str]:
    yield seen[0].hint if seen else failed.hint
    yield f"the whole log is {log}"

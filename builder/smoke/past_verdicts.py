"""Earlier verdicts: reused for the same image and questions; the last one of a cell is the base for bounds."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from builder.host import records
from builder.model.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.recipes import Bounds, Spec
    from builder.model.verdicts import Level
    from builder.smoke.golden import Golden

# Smaller differences are noise, whatever their ratio: seconds, tokens/s, bytes.
_NOISE = {"start": 2.0, "first_token": 0.2, "tokens": 0.5, "memory": 64e6, "image": 1e6}


def question_fingerprint(spec: Spec, golden: Sequence[Golden]) -> str:
    """Return the fingerprint of all questions to an image, without time limits."""
    smoke = spec.smoke
    questions = (smoke.questions, smoke.environment, smoke.api_key, smoke.golden_tolerance)
    return records.fingerprint(questions, spec.server, [(row.prompt, row.model, row.tokens) for row in golden])


def find_verdict(workspace: Workspace, digest: str, level: Level, question: str) -> Verdict | None:
    """Return the passed verdict of a digest at a level on these questions, or None."""
    verdict = records.read(_path(workspace, digest, level, question), question, Verdict)
    # A moved or edited file does not prove this digest.
    return verdict if verdict and verdict.passed and (verdict.digest, verdict.level) == (digest, level) else None


def drop_verdict(workspace: Workspace, digest: str, level: Level, question: str) -> None:
    """Delete the stored verdict of a digest."""
    _path(workspace, digest, level, question).unlink(missing_ok=True)


def keep_verdict(workspace: Workspace, verdict: Verdict, question: str) -> None:
    """Store a passed verdict.

    Raises:
        DiskError: the verdict cannot be written.
    """
    records.write(_path(workspace, verdict.digest, verdict.level, question), question, verdict)


def _path(workspace: Workspace, digest: str, level: Level, question: str) -> Path:
    return workspace.verdict(digest.partition(":")[2], f"{level}-{question[:16]}")


def regressions(bounds: Bounds, now: Verdict, before: Verdict) -> tuple[str, ...]:
    """Return a message for every measure that regressed beyond its bound."""
    return tuple(_regressions(bounds, now, before))


def _regressions(bounds: Bounds, now: Verdict, before: Verdict) -> Iterator[str]:
    for name, bound, measure, unit in (
        ("start", bounds.slower_start, lambda verdict: verdict.ready_s, "{:.1f} s to ready"),
        ("first_token", bounds.later_first_token, _first_token, "{:.2f} s to the first token"),
        ("tokens", bounds.fewer_tokens, _tokens, "{:.1f} tokens/s"),
        ("memory", bounds.more_memory, lambda verdict: _float(verdict.peak_memory_bytes), "{:.0f} bytes of memory"),
        ("image", bounds.larger_image, lambda verdict: _float(verdict.image_bytes), "an image of {:.0f} bytes"),
    ):
        new, old = measure(now), measure(before)
        if bound is None or not new or not old:
            continue
        # More tokens are better, more of everything else is worse.
        worse = old - new if name == "tokens" else new - old
        if worse > old * bound and worse > _NOISE[name]:
            yield f"{unit.format(new)}, last time {unit.format(old)}: more than {bound:.0%} worse"


def _first_token(verdict: Verdict) -> float | None:
    return _median(verdict, lambda answer: answer.first_token_s)


def _tokens(verdict: Verdict) -> float | None:
    return _median(verdict, lambda answer: answer.tokens_per_s)


def _median(verdict: Verdict, of: Callable[..., float | None]) -> float | None:
    values = [value for answer in verdict.answers if (value := of(answer)) is not None]
    return median(values) if values else None


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)

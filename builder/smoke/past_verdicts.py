"""Earlier verdicts: reused for the same image and questions; the last one of a cell is the base for bounds."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from builder.host import records
from builder.model.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from builder.host.paths import Workspace
    from builder.model.recipes import Bounds, Spec
    from builder.model.verdicts import Level
    from builder.smoke.golden import Golden

# Of all other measures, more is worse.
_MORE_IS_BETTER = "fewer_tokens"


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


def regressions(bounds: Bounds, now: Verdict, before: Verdict) -> Iterator[str]:
    """Yield a message for every measure that regressed beyond its bound."""
    for name, (measure, text, noise) in _MEASURES.items():
        bound, new, old = getattr(bounds, name), measure(now), measure(before)
        if bound is None or not new or not old:
            continue
        worse = old - new if name == _MORE_IS_BETTER else new - old
        if worse > old * bound and worse > noise:
            yield f"{text.format(new)}, last time {text.format(old)}: more than {bound:.0%} worse"


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


# By the bound's name: the measure, its text, and the difference that is noise, whatever its ratio.
_MEASURES: dict[str, tuple[Callable[[Verdict], float | None], str, float]] = {
    "slower_start": (lambda verdict: verdict.ready_s, "{:.1f} s to ready", 2.0),
    "later_first_token": (
        lambda verdict: _median(answer.first_token_s for answer in verdict.answers),
        "{:.2f} s to the first token",
        0.2,
    ),
    "fewer_tokens": (
        lambda verdict: _median(answer.tokens_per_s for answer in verdict.answers),
        "{:.1f} tokens/s",
        0.5,
    ),
    "more_memory": (lambda verdict: verdict.peak_memory_bytes, "{:.0f} bytes of memory", 64e6),
    "larger_image": (lambda verdict: verdict.image_bytes, "an image of {:.0f} bytes", 1e6),
}

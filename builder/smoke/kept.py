"""Verdicts by digest and question: an image that has proved itself is not asked again, whichever cell it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import records
from builder.smoke.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.recipe.model import Spec
    from builder.smoke.golden import Golden
    from builder.smoke.model import Level
    from builder.workspace import Workspace


def question_print(spec: Spec, golden: Sequence[Golden]) -> str:
    """Return the fingerprint of everything that an image is asked; how long it may take proves nothing."""
    smoke = spec.smoke
    asked = (smoke.questions, smoke.environment, smoke.api_key, smoke.golden_tolerance)
    return records.fingerprint(asked, spec.server, [(each.asked, each.model, each.tokens) for each in golden])


def find(workspace: Workspace, digest: str, level: Level, question: str) -> Verdict | None:
    """Return the verdict that a digest has at a level on these questions, if it passed."""
    found = records.read(_path(workspace, digest, level, question), question, Verdict)
    # A file that was moved or edited is no proof of this digest.
    return found if found and found.passed and (found.digest, found.level) == (digest, level) else None


def drop(workspace: Workspace, digest: str, level: Level, question: str) -> None:
    """Forget that a digest has passed."""
    _path(workspace, digest, level, question).unlink(missing_ok=True)


def keep(workspace: Workspace, verdict: Verdict, question: str) -> None:
    """Keep a verdict that passed.

    Raises:
        DiskError: it cannot be written.
    """
    records.write(_path(workspace, verdict.digest, verdict.level, question), question, verdict)


def _path(workspace: Workspace, digest: str, level: Level, question: str) -> Path:
    return workspace.verdict(digest.partition(":")[2], f"{level}-{question[:16]}")

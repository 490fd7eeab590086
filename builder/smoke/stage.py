"""The smoke stage: from an image to the verdict of a run of its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.pipeline.stage import Stage
from builder.smoke import golden
from builder.smoke.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.pipeline.cell import CellRun


class SmokeStage(Stage[Verdict]):
    """From an image to a verdict; one that did not pass ends the run."""

    name = "smoke"
    record = Verdict

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        """Return the questions, the server's settings, and the golden answers.

        Raises:
            DocumentError: the golden tokens have mistakes.
        """
        return {"recipe": (run.job.spec.smoke, run.job.spec.server), "golden": golden.of_cell(run)}

    def run_inputs(self, run: CellRun) -> object:
        """Return the image."""
        return run.image.digest

    def holds(self, run: CellRun, record: Verdict) -> bool:
        """Return whether the image passed, and its answers are not to be recorded anew."""
        return record.passed and not run.options.record

    def make(self, run: CellRun) -> Verdict:
        """Start the image and ask it; see `smoke_cell`."""
        from builder.smoke.cell import smoke_cell  # noqa: PLC0415  # slow to import

        return smoke_cell(run)

    def last_failure(self, run: CellRun) -> str | None:
        """Return why the image failed, if it did."""
        verdict = self.load(run)
        return verdict.failure if verdict else None


STAGE = SmokeStage()

"""The smoke stage: runs an image and returns the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.model.verdicts import Verdict
from builder.pipeline.stage import Stage
from builder.smoke import golden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.pipeline.cell import CellRun


class _SmokeStage(Stage[Verdict]):
    """From an image to a verdict; a failed verdict ends the run."""

    name = "smoke"
    record = Verdict

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        return {"recipe": (run.job.spec.smoke, run.job.spec.server), "golden": golden.of_cell(run)}

    def run_inputs(self, run: CellRun) -> object:
        return run.image.digest

    def holds(self, run: CellRun, record: Verdict) -> bool:
        return record.passed and not run.options.record

    def make(self, run: CellRun) -> Verdict:
        from builder.smoke.cell_verdict import smoke_cell  # noqa: PLC0415  # slow to import

        return smoke_cell(run)

    def last_failure(self, run: CellRun) -> str | None:
        verdict = self.load(run)
        return verdict.failure if verdict else None


STAGE = _SmokeStage()

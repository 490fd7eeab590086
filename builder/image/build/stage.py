"""The build stage: from a rendered plan to an image in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host.engine.docker import find_engine
from builder.image.build.buildx import options
from builder.image.layers.layer_blobs import blobs_of
from builder.image.oci.layout import mark_image_used
from builder.image.oci.pack import compression_key
from builder.model.images import Image
from builder.pipeline.cell import CellRecords
from builder.pipeline.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.host.engine.docker import Engine
    from builder.pipeline.cell import CellRun


class _BuildStage(Stage[Image]):
    """From a plan to an image, on one of the builders."""

    name = "build"
    record = Image

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        return {
            "jbuild": options(run.job.platform.architecture),
            "settings": compression_key(run.session.config.layers),
        }

    def run_inputs(self, run: CellRun) -> object:
        return run.plan.content, run.plan.layers, run.plan.settings

    def holds(self, run: CellRun, record: Image) -> bool:
        """Return whether the cache holds the image, or can make what it lacks, and note that it is in use."""
        if blobs_of(run).missing(record):
            return False
        mark_image_used(run.session.workspace.images, record)
        return True

    def check_machine(self, run: CellRun) -> None:
        if run.options.verify or run.options.forces(self.name) or CellRecords(run.folder).image() is None:
            _engine(run)

    def make(self, run: CellRun) -> Image:
        from builder.image.build.cell_image import build_image  # noqa: PLC0415  # slow to import

        engine, again = _engine(run), run.options.forces(self.name)
        return run.builders.build(
            run.job.cell.id, engine, lambda name: build_image(run, engine, builder=name, again=again)
        )

    def verify(self, run: CellRun) -> str | None:
        from builder.image.build.reproduce import verify  # noqa: PLC0415  # slow to import

        return verify(run)


def _engine(run: CellRun) -> Engine:
    """Return the engine that builds a cell.

    Raises:
        EngineError: it does not answer, or it has to build the cell itself and lacks the emulation.
    """
    engine = find_engine(run.session.workspace)
    if not run.builders.names:
        engine.require(run.job.platform.architecture)
    return engine


STAGE = _BuildStage()

"""The wheel stage: obtains the wheels of the packages that a cell builds from source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.foundry.cell_builds import requests_of
from builder.foundry.obtain_wheel import obtain_wheel, wheel_path
from builder.model.builds import BUILD_METHOD, BuiltWheels
from builder.pipeline.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.pipeline.cell import CellRun


class _WheelStage(Stage[BuiltWheels]):
    """From a lock to the wheels that no index has; only cells that build packages have it."""

    name = "wheel"
    record = BuiltWheels

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        """Return the method: the lock has the sources, patches and compilers."""
        del run
        return {"jbuild": BUILD_METHOD}

    def run_inputs(self, run: CellRun) -> object:
        return [build.fingerprint for build in run.lock.builds or ()]

    def holds(self, run: CellRun, record: BuiltWheels) -> bool:
        """Return whether the wheelhouse has all wheels."""
        return all(wheel_path(wheel, run.session).is_file() for wheel in record.wheels)

    def make(self, run: CellRun) -> BuiltWheels:
        wheels = []
        for request in requests_of(run):
            run.on_step(f"building {request.build.name} {request.build.version}")
            wheels.append(obtain_wheel(request, run.session))
            run.session.console.say(f"{run.job.cell.id}: {wheels[-1].wheel.filename} ({wheels[-1].origin})")
        return BuiltWheels(wheels=tuple(wheels))


STAGE = _WheelStage()

"""The protocol of stages; their modules are imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeVar

from builder.host import records
from builder.pipeline.order import MODULES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.pipeline.cell import CellRun

_T = TypeVar("_T")


class Stage(Protocol[_T]):
    """A step from the records of earlier stages to its own record.

    Attributes:
        name: The verb, and the base name of the record's file.
        record: The class of the record.
    """

    name: str
    record: type[_T]

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        """Return the inputs that are known before a run, by name: recipe, configuration, tables, files.

        `run` may have records of earlier stages. `jbuild matrix --format inputs` prints the fingerprints by name.
        """
        ...

    def run_inputs(self, run: CellRun) -> object:
        """Return the inputs from records of earlier stages and from this machine."""
        del run
        return None

    def inputs(self, run: CellRun) -> str:
        """Return the fingerprint of all inputs: a record with the same one is reused."""
        return records.fingerprint(self.project_inputs(run), self.run_inputs(run))

    def load(self, run: CellRun) -> _T | None:
        """Return the record made from these inputs, or None."""
        return records.read(run.folder.record(self.name), self.inputs(run), self.record)

    def holds(self, run: CellRun, record: _T) -> bool:
        """Return whether a record made from these inputs still counts: whether its files still exist, say."""
        del run, record
        return True

    def make(self, run: CellRun) -> _T:
        """Run the stage.

        Raises:
            JbuildError: the stage failed; `record` of the error is saved.
        """
        ...

    def save(self, run: CellRun, record: _T) -> None:
        """Write a record with the fingerprint of its inputs.

        Raises:
            DiskError: the file cannot be written.
        """
        records.write(run.folder.record(self.name), self.inputs(run), record)

    def check(self, run: CellRun) -> None:
        """Refuse a run, before its first stage, that would fail only after hours.

        Raises:
            UsageError: the options or the configuration do not suffice for this stage.
        """
        del run

    def check_machine(self, run: CellRun) -> None:
        """Refuse a run, before its first stage, if this stage is certain to fail on this machine after hours.

        Raises:
            JbuildError: something is missing, such as an engine.
        """
        del run

    def check_servers(self, runs: Sequence[CellRun]) -> None:
        """Refuse runs, before their first stage, if a server does not answer that this stage needs after hours.

        A slow server is not a reason.

        Raises:
            JbuildError: a server does not answer, or refuses this machine.
        """
        del runs

    def clean_up(self, runs: Sequence[CellRun]) -> None:
        """Remove files that this stage no longer needs. The runner calls it once, after all cells have passed.

        `runs` are the cells that have this stage.

        Raises:
            JbuildError: a file cannot be removed.
        """
        del runs

    def last_failure(self, run: CellRun) -> str | None:
        """Return the failure of the last run with these inputs; None if there was none, or no record of it."""
        del run
        return None

    def verify(self, run: CellRun) -> str | None:
        """Repeat the stage without any cache, and return the digest of both runs; None if it cannot.

        Raises:
            JbuildError: the second run failed, or its result differs.
        """
        del run
        return None


def stage_of(name: str) -> Stage[object]:
    """Return a stage by its name."""
    stage: Stage[object] = import_module(MODULES[name]).STAGE
    return stage

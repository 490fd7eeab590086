"""One cell: its run through the stages, and the records of earlier runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from builder.host import records
from builder.host.config import with_options
from builder.model.audits import Audit
from builder.model.builds import BuiltWheels
from builder.model.images import Image, Plan, proven_name
from builder.model.locks import Locked
from builder.model.publications import Publication
from builder.model.verdicts import Verdict
from builder.pipeline.builders import Builders
from builder.pipeline.order import RunOptions, stages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.host.paths import CellFolder
    from builder.host.session import Session
    from builder.model.locks import Job, Lock

_T = TypeVar("_T")
# The record of a verdict of another machine that `jbuild promote` accepted.
IMPORTED = "imported"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRun:
    """One cell on its way through the stages; `records` are those of the finished stages by class.

    A stage of several long steps names each to `on_step` when it begins.
    """

    job: Job
    session: Session
    options: RunOptions
    builders: Builders
    records: Mapping[type[object], object] = field(default_factory=dict)
    on_step: Callable[[str], object] = field(default=lambda _: None, compare=False)

    def with_records(self, *new: object) -> CellRun:
        """Return the run with more records."""
        return replace(self, records={**self.records, **{type(record): record for record in new}})

    def find(self, kind: type[_T]) -> _T | None:
        """Return the record of a class, or None before its stage has finished."""
        record = self.records.get(kind)
        return record if isinstance(record, kind) else None

    def get(self, kind: type[_T]) -> _T:
        """Return the record of a class from an earlier stage.

        Raises:
            LookupError: no stage made it, which is a bug: stages run in order.
        """
        record = self.find(kind)
        if record is None:
            raise LookupError(f"{self.job.name}: no stage has made a {kind.__name__} yet")
        return record

    @property
    def folder(self) -> CellFolder:
        """The cell's folder."""
        return self.session.workspace.cell(self.job.recipe.name, self.job.cell.id)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the cell's stages up to the last one of the run, in order."""
        return stages_of(self.job.spec, self.options.stages)

    @property
    def lock(self) -> Lock:
        """The lock, which every later stage needs, with the wheels that the cell has built."""
        lock, built = self.get(Locked).lock, self.find(BuiltWheels)
        return lock.with_built(built) if built else lock

    @property
    def plan(self) -> Plan:
        """The plan, which the build needs."""
        return self.get(Plan)

    @property
    def image(self) -> Image:
        """The image, which the smoke run and the push need."""
        return self.get(Image)

    @property
    def proven_name(self) -> str:
        """The name of the image in the engine after a smoke run that passed."""
        return proven_name(self.job.recipe.name, self.job.cell.id)


def start(job: Job, session: Session, options: RunOptions | None = None, builders: Builders | None = None) -> CellRun:
    """Return the run of a cell before its first stage; `builders` are shared by the cells of one command."""
    options = options or RunOptions()
    return CellRun(job=job, session=session, options=options, builders=builders or builders_of(options, session))


def builders_of(options: RunOptions, session: Session) -> Builders:
    """Return the builders of the command line, else of the configuration."""
    return Builders(with_options(session.config, builders=options.builders).builders, session.console)


@dataclass(frozen=True, slots=True)
class CellRecords:
    """The JSON records in a cell's folder; None if a stage has not run.

    They may be out of date: only the runner compares their inputs.
    """

    folder: CellFolder

    def built(self) -> BuiltWheels | None:
        """Return the wheels that the cell has built."""
        return self._read("wheel", BuiltWheels)

    def with_built(self, lock: Lock) -> Lock:
        """Return a lock with the wheels that were built from it; without those that are not built yet."""
        built = self.built() if lock.builds else None
        return lock.with_built(built) if built else lock

    def audit(self) -> Audit | None:
        """Return the last audit, with or without errors."""
        return self._read("audit", Audit)

    def plan(self) -> Plan | None:
        """Return the rendered plan."""
        return self._read("render", Plan)

    def image(self) -> Image | None:
        """Return the latest image."""
        return self._read("build", Image)

    def verdict(self) -> Verdict | None:
        """Return the last smoke verdict, passed or not, of any image."""
        return self._read("smoke", Verdict)

    def publication(self) -> Publication | None:
        """Return the last publication."""
        return self._read("push", Publication)

    def imported(self) -> Verdict | None:
        """Return the verdict of another machine that the latest image has passed, or None."""
        return passed(self.image(), self._read(IMPORTED, Verdict))

    def proven(self) -> Verdict | None:
        """Return the verdict that the latest image has passed, or None."""
        return passed(self.image(), self.verdict())

    def _read(self, stage: str, kind: type[_T]) -> _T | None:
        return records.read(self.folder.record(stage), None, kind)


def passed(image: Image | None, verdict: Verdict | None) -> Verdict | None:
    """Return a verdict if exactly this image passed it, else None."""
    return verdict if image and verdict and verdict.passed and verdict.digest == image.digest else None

"""The view of a cell on the page, from its lock, records and history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from builder.errors import LockError
from builder.image.render.image_labels import slim_sizes, slim_text, stand_ins
from builder.lock import lockfile
from builder.pipeline import history
from builder.pipeline.cell import CellRecords, passed
from builder.pipeline.failure import Failure, RunningStage
from builder.pipeline.order import STAGES
from builder.project.page import page_parts

if TYPE_CHECKING:
    from collections.abc import Collection

    from builder.host.paths import CellFolder
    from builder.host.session import Session
    from builder.model.audits import Audit
    from builder.model.images import Image, Plan
    from builder.model.locks import Lock
    from builder.model.publications import Publication
    from builder.model.recipes import Cell, Pairs
    from builder.model.verdicts import Verdict
    from builder.pipeline.history import HistoryRun
    from builder.project.diff.difference import Difference, Layer
    from builder.project.page.page_parts import AuditView, Chart

# The progress of a cell; `stale`: the image was built from an older lock.
State = Literal[
    "impossible", "no wheels", "not begun", "locked", "audited", "planned", "built", "smoked", "published", "stale",
    "failed",
]  # fmt: skip
StepState = Literal["done", "failed", "stale", "to do"]
_MOST_RUNS = 20
_REACHED: dict[str, State] = {
    "lock": "locked",
    "wheel": "locked",
    "audit": "audited",
    "render": "planned",
    "build": "built",
    "smoke": "smoked",
    "push": "published",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageView:
    """One stage of a cell; `seconds` is the time of its last run, if the history has it."""

    name: str
    state: StepState
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellView:
    """One cell. `detail` is the second line of its box in the map; `command` is the next command.

    `slimmed` names the wheels without GPU code for other GPUs, with sizes.
    """

    recipe: str
    id: str
    values: Pairs
    state: State
    detail: str = ""
    reason: str | None = None
    note: str | None = None
    command: str | None = None
    failures: tuple[Failure, ...] = ()
    steps: tuple[StageView, ...] = ()
    lock: Lock | None = None
    audit: AuditView | None = None
    image: Image | None = None
    layers: tuple[Layer, ...] = ()
    verdict: Verdict | None = None
    tags: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    difference: Difference | None = None
    same_as_published: bool = False
    runs: tuple[HistoryRun, ...] = ()
    charts: tuple[Chart, ...] = ()
    stand_ins: tuple[str, ...] = ()
    slimmed: str | None = None

    @property
    def failure(self) -> Failure | None:
        """The latest of the failures that are about the present lock."""
        return next((failure for failure in reversed(self.failures) if not failure.outdated), None)

    @property
    def anchor(self) -> str:
        """The anchor of the cell on the page."""
        return f"{self.recipe}.{self.id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRecordsView:
    """The lock, records and history of a cell; `content` is the lock's checksum, `flaw` why it cannot be read."""

    lock: Lock | None = None
    content: str | None = None
    flaw: str | None = None
    audit: Audit | None = None
    plan: Plan | None = None
    image: Image | None = None
    verdict: Verdict | None = None
    publication: Publication | None = None
    runs: tuple[HistoryRun, ...] = ()
    running: RunningStage | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the cell: with that of wheels if its lock has some to build."""
        return tuple(stage for stage in STAGES if stage != "wheel" or (self.lock and self.lock.builds))

    @property
    def is_stale(self) -> bool:
        """Whether the image was made from another lock than the current one."""
        return bool(self.image and self.content and dict(self.image.labels).get("io.jbuild.lock") != self.content)

    def done(self, stage: str) -> bool:
        """Return whether a stage's record exists and belongs to the records of earlier stages."""
        digest = self.image.digest if self.image else None
        if stage == "smoke":
            return passed(self.image, self.verdict) is not None
        if stage == "push":
            return bool(self.publication and self.publication.digest == digest and not self.publication.failures)
        if stage == "audit":
            return bool(self.audit and not self.audit.counted("error"))
        if stage == "wheel":
            return bool(self.lock and len(self.lock.built_wheels) == len(self.lock.builds or ()))
        return {"lock": self.lock, "render": self.plan, "build": self.image}[stage] is not None

    def failures(self) -> tuple[Failure, ...]:
        """Return the failed stages with their reasons, the latest last: from past runs, or else from the records."""
        if failures := history.open_failures(self.runs, self.running, lock=self.lock):
            return failures
        failure = None if self.running else self._recorded_failure()
        return (failure,) if failure else ()

    def _recorded_failure(self) -> Failure | None:
        if self.flaw:
            return Failure(stage="lock", message=self.flaw)
        if self.audit and self.audit.counted("error"):
            worst = next(f for f in self.audit.findings if f.severity == "error" and f.waived is None)
            return Failure(stage="audit", message=f"{worst.rule}: {worst.wheel} {worst.detail}", hint=worst.fix)
        if self.verdict and not self.verdict.passed and self.image and self.verdict.digest == self.image.digest:
            message = self.verdict.failure or "the smoke run failed"
            return Failure(stage="smoke", message=message, when=self.verdict.when)
        return None


def cell_view(cell: Cell, session: Session, without_wheels: str | None) -> CellView:
    """Return the view of a cell; `without_wheels` is why the last attempt found no wheels."""
    bare = CellView(
        recipe=cell.recipe,
        id=cell.id,
        values=cell.values,
        state="impossible",
        reason=cell.impossible,
        note=cell.note,
    )
    if cell.impossible:
        return bare
    folder, layout = session.workspace.cell(cell.recipe, cell.id), session.workspace.images
    view = _read_records(cell, session, folder)
    recent = tuple(reversed(view.runs[-_MOST_RUNS:]))
    if without_wheels:
        return replace(
            bare,
            state="no wheels",
            reason=without_wheels,
            command=f"jbuild why {cell.recipe} --cell {cell.id}",
            failures=history.open_failures(view.runs, view.running, lock=view.lock),
            runs=recent,
        )
    failures = view.failures()
    failed = [failure.stage for failure in failures if not failure.outdated]
    state = _state(view, failed)
    same = not view.is_stale and view.done("push")
    difference = None
    if view.lock and not same:
        difference = page_parts.difference(view.lock, view.image, history.published(folder), layout)
    sizes = slim_sizes(dict(view.image.labels)) if view.image else ()
    return replace(
        bare,
        state=state,
        detail=_detail(state, view, failed),
        command=_command(cell, state, view),
        failures=failures,
        steps=_steps(view, failed),
        lock=view.lock,
        audit=page_parts.audit_view(view.audit) if view.audit else None,
        image=view.image,
        layers=page_parts.contents_of(view.image, layout).layers if view.image else (),
        verdict=view.verdict,
        tags=tuple(view.publication.references) if view.publication else (),
        withheld=tuple(view.publication.withheld_reasons) if view.publication else (),
        difference=difference,
        same_as_published=same,
        runs=recent,
        charts=page_parts.charts_of(view.runs),
        stand_ins=tuple(stand_ins(view.lock)) if view.lock else (),
        slimmed=slim_text(sizes) if sizes else None,
    )


def _read_records(cell: Cell, session: Session, folder: CellFolder) -> CellRecordsView:
    path = session.workspace.lock(cell.recipe, cell.id)
    lock, content, flaw = None, None, None
    try:
        lock, content = lockfile.read_unchecked(path) if path.is_file() else (None, None)
    except LockError as error:
        flaw = error.message
    records = CellRecords(folder)
    return CellRecordsView(
        lock=records.with_built(lock) if lock else None,
        content=content,
        flaw=flaw,
        audit=records.audit(),
        plan=records.plan(),
        image=records.image(),
        verdict=records.verdict(),
        publication=records.publication(),
        runs=history.runs(folder),
        running=history.running(folder),
    )


def _state(view: CellRecordsView, failed: Collection[str]) -> State:
    if failed:
        return "failed"
    if view.is_stale:
        return "stale"
    reached: State = "not begun"
    for stage in view.stages:
        if not view.done(stage):
            return reached
        reached = _REACHED[stage]
    return reached


def _detail(state: State, view: CellRecordsView, failed: Collection[str]) -> str:
    if view.running:
        return f"({view.running.stage} is running)"
    if failed:
        return f"at {', '.join(failed)}"
    if state == "stale":
        return "the lock is newer"
    return view.verdict.level if view.verdict and state in {"smoked", "published"} else ""


def _steps(view: CellRecordsView, failed: Collection[str]) -> tuple[StageView, ...]:
    seconds = {result.stage: result.seconds for run in view.runs for result in run.stages if result.ran}
    steps = []
    for stage in view.stages:
        state: StepState = "done" if view.done(stage) else "to do"
        if stage in failed:
            state = "failed"
        elif state == "done" and view.is_stale and STAGES.index(stage) >= STAGES.index("render"):
            state = "stale"
        steps.append(StageView(name=stage, state=state, seconds=seconds.get(stage)))
    return tuple(steps)


def _command(cell: Cell, state: State, view: CellRecordsView) -> str:
    if state == "published" and view.publication:
        return f"docker pull {view.publication.references[0]}" if view.publication.references else ""
    return f"jbuild recipe {cell.recipe} --cell {cell.id}" + (" --push" if state == "smoked" else "")

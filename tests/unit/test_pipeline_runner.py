"""The stages as the runner sees them: what is loaded, made, kept and shown in advance."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_job, make_lock, make_plan, make_run

from builder.errors import AuditError
from builder.host import records
from builder.jetson.advisories import SYMPTOMS
from builder.model.audits import Audit, Finding
from builder.model.locks import Locked
from builder.pipeline import runner
from builder.pipeline.cell import CellRecords, start
from builder.pipeline.order import STAGES, RunOptions
from builder.pipeline.runner import bring_up_to_date, preview
from builder.pipeline.stage import Stage, stage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.host.session import Session
    from builder.pipeline.cell import CellRun

FINDING = Finding(rule="undefined-symbol", severity="error", wheel="x 1", file="x.so", detail="lacks y", fix="pin it")


class FailingAudit(Stage[Any]):
    """Finds as many errors as it is told, and counts how often it runs."""

    name = "audit"
    record = Audit

    def __init__(self, *findings: Finding) -> None:
        self.findings, self.runs = findings, 0

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        return {"recipe": run.job.spec.apt}

    def run_inputs(self, run: CellRun) -> object:
        return run.lock.wheels

    def holds(self, run: CellRun, record: Audit) -> bool:
        return not record.errors

    def make(self, run: CellRun) -> Audit:
        self.runs += 1
        audit = Audit(cell="one", findings=self.findings, base="debian")
        if audit.failure:
            error = AuditError(audit.failure)
            error.record = audit
            raise error
        return audit

    def last_failure(self, run: CellRun) -> str | None:
        audit = self.load(run)
        return audit.failure if audit else None


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_the_name_of_its_verb(name: str) -> None:
    assert stage_of(name).name == name


def test_a_record_is_made_once_and_then_loaded(session: Session) -> None:
    stage, run = FailingAudit(), make_run(session, make_lock())
    done, ran = bring_up_to_date(stage, run)
    assert (ran, done.get(Audit).cell, stage.runs) == (True, "one", 1)
    again, ran = bring_up_to_date(stage, run)
    assert (ran, again.find(Audit), stage.runs) == (False, done.find(Audit), 1)
    assert run.find(Audit) is None
    bring_up_to_date(stage, make_run(session, make_lock(), again="lock"))
    assert stage.runs == 2


def test_the_record_of_a_failure_is_kept_and_never_holds(session: Session) -> None:
    stage, run = FailingAudit(FINDING), make_run(session, make_lock())
    for count in (1, 2):
        with pytest.raises(AuditError):
            bring_up_to_date(stage, run)
        assert stage.runs == count
        audit = CellRecords(run.folder).audit()
        assert audit
        assert audit.findings == (FINDING,)


def test_a_preview_tells_which_stage_failed_and_runs_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class LockedAlready(FailingAudit):
        def load(self, run: CellRun) -> Audit | None:
            del run
            return Audit(cell="one", findings=(), base="debian")

    audit, lock = FailingAudit(FINDING), LockedAlready()
    monkeypatch.setattr(runner, "stage_of", {"lock": lock, "audit": audit}.__getitem__)
    monkeypatch.setattr(FailingAudit, "run_inputs", lambda *_: None)
    options = RunOptions(until="render")
    assert [step.state for step in preview(make_job(), session, options)] == ["unchanged", "run", "run"]
    with pytest.raises(AuditError):
        bring_up_to_date(audit, make_run(session))
    steps = preview(make_job(), session, options)
    assert [step.state for step in steps] == ["unchanged", "failed", "run"]
    assert steps[1].why == "undefined-symbol: x 1: x.so lacks y"
    assert audit.runs == 1


@pytest.mark.parametrize("failing", [False, True])
def test_stages_clean_up_after_all_cells_unless_one_has_failed(
    session: Session, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    cleaned: list[tuple[str, int]] = []

    class Cleaning(FailingAudit):
        def clean_up(self, runs: Sequence[CellRun]) -> None:
            cleaned.append((self.name, len(runs)))

    errors = iter([None, AuditError("no") if failing else None])
    monkeypatch.setattr(runner, "stage_of", lambda _: Cleaning())
    monkeypatch.setattr(
        runner, "run_cell", lambda job, *_: runner.CellResult(run=start(job, session), error=next(errors))
    )
    runner.run_cells([make_job(), make_job()], session, RunOptions(until="lock"))
    assert cleaned == ([] if failing else [("audit", 2)])


def test_a_record_that_no_stage_has_made_is_a_bug(session: Session) -> None:
    run = make_run(session, make_lock())
    assert run.get(Locked).lock == run.lock
    with pytest.raises(LookupError, match="no stage has made a Plan"):
        _ = run.plan


def test_records_of_an_older_jbuild_count_as_not_made_yet(session: Session) -> None:
    folder = make_run(session).folder
    for name in ("plan", "image", "publish"):
        records.write(folder.record(name), "x", make_plan())
    found = CellRecords(folder)
    assert (found.plan(), found.image(), found.publication(), found.proven()) == (None, None, None, None)
    records.write(folder.record("render"), "x", make_plan())
    assert found.plan() == make_plan()


def test_a_damaged_record_counts_as_not_made_yet(session: Session) -> None:
    folder = make_run(session).folder
    records.write(folder.record("audit"), "x", Audit(cell="one", findings=(), base="debian"))
    document = json.loads(folder.record("audit").read_text())
    document["record"]["findings"] = 1
    folder.record("audit").write_text(json.dumps(document))
    assert CellRecords(folder).audit() is None


def test_symptoms_advise_stages_that_exist() -> None:
    advised = re.findall(r"--(?:from|until) ([a-z]+)", SYMPTOMS.read_text())
    assert advised
    assert set(advised) <= set(STAGES)

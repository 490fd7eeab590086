"""What became of a cell's runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from factories import DIGEST, make_job, make_lock, make_locked_wheel, make_run

from builder.errors import BuildError, DiskError, JbuildError, LockError, NetworkError
from builder.host import records
from builder.lock import lockfile
from builder.model.images import Descriptor, Image
from builder.model.publications import Publication, RegistryPublication, TagPut
from builder.model.verdicts import Answer, SmokeFailedError, Verdict
from builder.pipeline import history, runner
from builder.pipeline.history import StageResult
from builder.pipeline.order import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.host.session import Session
    from builder.pipeline.cell import CellRun
    from builder.pipeline.stage import Stage

PART = Descriptor(media_type="m", digest=DIGEST, size=1_000)
IMAGE = Image(platform="linux/arm64", manifest=PART, config=PART, layers=(PART,), labels=())
VERDICT = Verdict(
    level="emulated",
    digest=DIGEST,
    passed=True,
    when="2026-01-01T00:00:00Z",
    log=Path("smoke.log"),
    answers=(Answer(question="Capital?", text="Paris", seconds=2.0, tokens=5),),
)
PUBLICATION = Publication(
    digest=DIGEST,
    registries=(
        RegistryPublication(
            repository="r.example/vllm",
            digest=DIGEST,
            tags=(TagPut(name="1.0", previous=None),),
            bytes_sent=1,
            bytes_mounted=0,
            bytes_there=0,
            seconds=1.0,
        ),
    ),
)


def results(*stages: str, ran: bool = True) -> list[StageResult]:
    return [StageResult(stage=stage, ran=ran, seconds=1.23) for stage in stages]


def test_a_run_is_a_line_that_reads_back(session: Session) -> None:
    work = make_run(session, IMAGE, VERDICT, PUBLICATION)
    history.note(work, results("lock", "build", "smoke"), None, "smoke")
    (run,) = history.runs(work.folder)
    assert (run.digest, run.size, run.verdict, run.failure) == (DIGEST, IMAGE.size, VERDICT, None)
    assert run.tags == ("r.example/vllm:1.0",)
    assert [(took.stage, took.seconds) for took in run.stages] == [("lock", 1.23), ("build", 1.23), ("smoke", 1.23)]
    assert run.seconds == pytest.approx(3.69)
    assert run.ran("build")
    assert not run.ran("push")
    assert run.when.endswith("+00:00")
    assert work.folder.history.read_text().count("\n") == 1


def test_runs_are_appended_and_one_without_work_is_not_noted(session: Session) -> None:
    work = make_run(session, IMAGE)
    history.note(work, results("lock"), None, "lock")
    before = work.folder.history.read_bytes()
    history.note(work, results("lock", "build", ran=False), None, "build")
    assert work.folder.history.read_bytes() == before
    history.note(work, results("lock"), None, "lock")
    assert work.folder.history.read_bytes().startswith(before)
    assert len(history.runs(work.folder)) == 2


def test_a_run_without_work_is_noted_where_it_shows_that_a_failure_is_over(session: Session) -> None:
    work = make_run(session, IMAGE)
    history.note(work, results("lock", "build"), BuildError("the registry is down"), "push")
    history.note(work, results("lock", "build", ran=False), None, "build")
    assert len(history.runs(work.folder)) == 1
    history.note(work, results("lock", "build", "push", ran=False), None, "push")
    assert [bool(run.failure) for run in history.runs(work.folder)] == [True, False]


def test_a_lock_that_failed_is_kept_as_any_stage(session: Session) -> None:
    work, refusal = make_run(session), NetworkError("the index is down", hint="run it again")
    history.note(work, [], refusal, "lock")
    history.note(make_run(session, locked_only=True), [], LockError("there is no lock"), "lock")
    runs = history.runs(work.folder)
    assert [run.failure.message for run in runs if run.failure] == ["the index is down", "there is no lock"]
    (failure,) = history.open_failures(runs)
    assert (failure.stage, failure.message, failure.when) == ("lock", "there is no lock", runs[-1].when)


def test_a_failure_is_open_until_its_stage_succeeds(session: Session) -> None:
    work = make_run(session, IMAGE)

    def failed() -> list[str]:
        return [failure.stage for failure in history.open_failures(history.runs(work.folder))]

    history.note(work, results("lock", "audit", "render", "build"), BuildError("no answer"), "smoke")
    history.note(work, [], NetworkError("the index is down"), "lock")
    assert failed() == ["smoke", "lock"]
    history.note(work, results("lock", ran=False), None, "lock")
    assert failed() == ["smoke"]
    history.note(work, results("lock", "audit", "render", "build", "smoke"), None, "smoke")
    assert failed() == []


def test_a_failure_knows_the_lock_that_it_is_about(session: Session, tmp_path: Path) -> None:
    lock, other = make_lock(make_locked_wheel("app")), make_lock(make_locked_wheel("app", "2.0"))
    run = make_run(session, lock)
    history.note(run, results("lock"), LockError("two errors"), "audit")
    path = tmp_path / "pylock.toml"
    lockfile.write(path, lock)
    past = history.runs(run.folder)
    for present in (None, lockfile.read_file(path), lockfile.read_unchecked(path)[0]):
        assert [failure.outdated for failure in history.open_failures(past, lock=present)] == [None]
    assert [failure.outdated for failure in history.open_failures(past, lock=other)] == [True]


def test_a_failed_lock_is_about_no_lock(session: Session) -> None:
    run = make_run(session)
    history.note(run, (), LockError("no wheels"), "lock")
    past = history.runs(run.folder)
    assert [failure.outdated for failure in history.open_failures(past, lock=make_lock())] == [None]


def test_two_builds_that_differ_are_a_failure_until_a_second_build_is_equal_or_a_new_image(session: Session) -> None:
    work = make_run(session, IMAGE)
    for better in (results("build", history.VERIFY, ran=False), results("build")):
        history.note(work, results("build"), BuildError("the digests differ"), history.VERIFY)
        assert [failure.stage for failure in history.open_failures(history.runs(work.folder))] == ["verify"]
        history.note(work, better, None, "build")
        assert history.open_failures(history.runs(work.folder)) == ()


@pytest.mark.parametrize(
    ("error", "message"),
    [(KeyboardInterrupt(), "the run was interrupted before"), (ValueError("odd"), "unexpected ValueError: odd")],
)
def test_an_interrupt_and_a_bug_are_kept_as_failures(session: Session, error: BaseException, message: str) -> None:
    work = make_run(session)
    history.note(work, results("lock"), error, "audit")
    (failure,) = history.open_failures(history.runs(work.folder))
    assert failure.stage == "audit"
    assert failure.message.startswith(message)


_KILLED_RUN = """
import os, sys
from builder.host.paths import CellFolder
from builder.pipeline import history
class Run:
    class job:
        name = "demo/one"
    folder = CellFolder(path=__import__("pathlib").Path(sys.argv[1]))
with history.attempt(Run) as attempt:
    attempt.begins([], "lock")
    attempt.begins([history.StageResult(stage="lock", ran=True, seconds=1.0)], "audit")
    print("begun", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), 9)
"""


def test_a_run_that_was_killed_says_so(session: Session) -> None:
    work = make_run(session)
    argv = [sys.executable, "-c", _KILLED_RUN, str(work.folder.path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdout.readline() == "begun\n"
        # It runs still.
        assert history.runs(work.folder) == ()
        now = history.running(work.folder)
        assert now
        assert (now.stage, now.finished) == ("audit", ("lock",))
        running.communicate()
    assert history.running(work.folder) is None
    (failure,) = history.open_failures(history.runs(work.folder))
    assert failure.stage == "audit"
    assert failure.message.startswith("the run ended before this stage did: jbuild was killed")
    assert failure.when
    with history.attempt(work) as attempt:
        attempt.begins([], "lock")
        history.note(work, results("lock", "audit", ran=False), None, "audit")
    assert not work.folder.running.exists()
    assert [bool(run.failure) for run in history.runs(work.folder)] == [True, False]


def test_a_run_that_was_cut_off_names_its_last_step(session: Session) -> None:
    work = make_run(session)
    assert history.cut_off(work.folder) is None
    path = work.folder.running
    with history.attempt(work) as attempt:
        attempt.begins([], "smoke")
        attempt.reaches("loading the image into the engine")
        attempt.reaches("starting the server")
        killed = path.read_bytes()
    # As a killed process leaves it.
    path.write_bytes(killed)
    failure = history.cut_off(work.folder)
    assert failure is not None
    assert failure.message.endswith("or the machine stopped; its last step was: starting the server")
    with history.attempt(work) as attempt:
        attempt.begins([], "smoke")
        attempt.reaches("stopping the server")
        history.note(work, [], KeyboardInterrupt(), "smoke", step=attempt.step)
    failure = history.cut_off(work.folder)
    assert failure is not None
    assert failure.message.endswith("a cancelled job); its last step was: stopping the server")
    history.note(work, [], BuildError("it failed"), "smoke")
    assert history.cut_off(work.folder) is None


def test_a_stage_that_runs_again_has_not_failed(session: Session) -> None:
    work = make_run(session)
    history.note(work, [], BuildError("it failed"), "build")
    history.note(work, [], KeyboardInterrupt(), "smoke")
    history.note(work, [], BuildError("it failed"), "push")
    with history.attempt(work) as attempt:
        attempt.begins(results("lock"), "build")
        attempt.begins(results("lock", "build"), "smoke")
        attempt.reaches("loading the image into the engine")
        now = history.running(work.folder)
        assert now
        assert now.stage == "smoke"
        assert now.since.endswith("+00:00")
        left = history.open_failures(history.runs(work.folder), now)
    assert [failure.stage for failure in left] == ["push"]
    assert history.running(work.folder) is None


def test_a_folder_that_cannot_be_written_stops_no_run(session: Session) -> None:
    work = make_run(session)
    work.folder.path.parent.mkdir(parents=True)
    work.folder.path.write_text("a file")
    with history.attempt(work) as attempt:
        attempt.begins([], "lock")
    assert history.runs(work.folder) == ()


def test_a_failure_is_kept_with_its_stage_and_the_tail_of_its_log(session: Session) -> None:
    work = make_run(session)
    log = "\n".join(f"line {number}" for number in range(1000))
    error = BuildError("the build failed", where="build.log", hint="look at it", log=log)
    history.note(work, results("lock", ran=False), error, "build")
    (run,) = history.runs(work.folder)
    assert run.failure
    assert (run.failure.stage, run.failure.message, run.failure.hint) == ("build", "the build failed", "look at it")
    assert run.failure.log
    assert run.failure.log.splitlines()[-1] == "line 999"
    assert len(run.failure.log.splitlines()) == 40


def test_a_log_of_one_endless_line_is_cut(session: Session) -> None:
    history.note(make_run(session), [], BuildError("it failed", log="x" * 10**6), "build")
    assert make_run(session).folder.history.stat().st_size < 10_000


def test_a_smoke_run_that_failed_tells_what_it_saw(session: Session) -> None:
    verdict = replace(VERDICT, passed=False, step="question", failure="it says London")
    error = SmokeFailedError("it says London", verdict=verdict, where="x", hint="y", log="z")
    work = make_run(session, IMAGE)
    history.note(work, results("lock"), error, "smoke")
    assert history.runs(work.folder)[0].verdict == verdict


def test_lines_that_cannot_be_read_hide_no_others(session: Session) -> None:
    work = make_run(session, IMAGE)
    history.note(work, results("lock"), None, "lock")
    whole = work.folder.history.read_text()
    work.folder.history.write_text('\n[]\n{"when": 1}\n' + whole + whole[:50])
    history.note(work, results("lock"), None, "lock")
    assert len(history.runs(work.folder)) == 2
    assert whole[:50] + "\n" in work.folder.history.read_text()


def test_of_a_long_history_the_end_is_read(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_RECENT", 1000)
    work = make_run(session, IMAGE)
    for _ in range(20):
        history.note(work, results("lock"), None, "lock")
    assert 0 < len(history.runs(work.folder)) < 5


def test_no_history(session: Session) -> None:
    assert history.runs(make_run(session).folder) == ()
    assert history.published(make_run(session).folder) is None


def test_a_history_that_cannot_be_written_spoils_no_run(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_run(session, IMAGE)
    work.folder.history.mkdir(parents=True)
    history.note(work, results("lock"), None, "lock")
    assert "warning: demo/one: cannot write its history" in capsys.readouterr().err


def test_what_was_published_is_kept_for_comparisons(session: Session) -> None:
    work, lock = make_run(session, make_lock(), IMAGE, PUBLICATION), make_lock()
    history.note(work, results("push"), None, "push")
    assert history.published(work.folder) == history.LastPublication(lock=lock, image=IMAGE)


def test_a_publication_that_an_older_jbuild_kept_is_none(session: Session) -> None:
    folder = make_run(session).folder
    older = {"name": "demo/one", "kind": "cell", "packages": [], "digest": DIGEST}
    records.write(folder.record("published"), DIGEST, older)
    assert history.published(folder) is None


@pytest.fixture
def run_stages(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[[JbuildError | None], history.HistoryRun]:
    def run(error: JbuildError | None) -> history.HistoryRun:
        def bring_up_to_date(stage: Stage[object], work: CellRun) -> tuple[CellRun, bool]:
            if error and stage.name == "render":
                raise error
            return work, True

        monkeypatch.setattr(runner, "bring_up_to_date", bring_up_to_date)
        (done,) = runner.run_cells([make_job()], session, RunOptions(until="render"))
        (noted,) = history.runs(done.run.folder)
        return noted

    return run


def test_the_pipeline_notes_a_run(run_stages: Callable[[JbuildError | None], history.HistoryRun]) -> None:
    noted = run_stages(None)
    assert [took.stage for took in noted.stages] == ["lock", "audit", "render"]
    assert noted.failure is None


def test_the_pipeline_notes_the_stage_that_failed(
    run_stages: Callable[[JbuildError | None], history.HistoryRun],
) -> None:
    noted = run_stages(DiskError("the disk is full"))
    assert noted.failure
    assert (noted.failure.stage, noted.failure.message) == ("render", "the disk is full")
    assert json.dumps([took.stage for took in noted.stages]) == '["lock", "audit"]'

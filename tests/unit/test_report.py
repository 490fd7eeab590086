"""What a run ends with."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import DIGEST, make_jetson, make_job, make_lock
from result_factory import IMAGE, VERDICT, everything, publication, result

from builder.cli.results import alike, show_failures, table
from builder.cli.run_view import finished_cell, summary
from builder.errors import NoWheelsError, SmokeError
from builder.host import records
from builder.host.console import Console
from builder.host.units import count_of, duration
from builder.model.audits import Audit, Finding
from builder.model.locks import Locked
from builder.model.publications import Publication, TagWithheld
from builder.model.verdicts import FailedModule, Modules
from builder.pipeline.history import StageResult

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.audits import Severity


def test_withheld_tags_are_told_with_their_reason(session: Session) -> None:
    put = replace(publication("rc").registries[0], withheld=(TagWithheld(name="latest", reason="newer there"),))
    done = Publication(digest=DIGEST, registries=(put,), withheld=(TagWithheld(name="1.0", reason="it needs more"),))
    text = summary([result(session, image=IMAGE, verdict=VERDICT, publication=done)], 1.0)
    assert "  pushed    localhost:5000/vllm:rc\n  withheld  1.0: it needs more\n" in text
    assert "  withheld  localhost:5000/vllm:latest: newer there\n" in text


def test_everything_that_was_made_is_named(session: Session) -> None:
    lines = summary([everything(session)], 125.0).splitlines()
    assert lines == [
        "demo/one: done",
        f"  lock      {session.workspace.lock('demo', 'one')} (1 wheels)",
        f"  image     {DIGEST}",
        "  size      500 MB compressed",
        "  smoke     passed at level emulated, ready after 93 s (in an earlier run, 2026-01-01 00:00 UTC)",
        "  asked     Capital of France?",
        "  answer    The capital is Paris.\\x1b[31m",
        "  pushed    localhost:5000/vllm:1.0-cpu",
        "  time      1 min 1 s: lock 1 min 1 s",
        (
            "  run it    docker run --rm --platform linux/arm64 -e QEMU_CPU=max,sve=off "
            "-p 127.0.0.1:8000:8000 -v vllm-cache:/cache localhost:5000/vllm:1.0-cpu"
        ),
        "",
        "1 done in 2 min 5 s",
    ]


def test_what_a_smoke_run_could_not_try_and_what_it_warns_of(session: Session) -> None:
    modules = Modules(loaded=240, need_driver=(FailedModule(file="vllm/_C.abi3.so", lacks="libcuda.so.1"),))
    verdict = replace(VERDICT, level="emulated-forward", modules=modules, warnings=("ERROR \x1b[31m once",))
    text = summary([everything(session, verdict=verdict)], 1.0)
    assert "  smoke     passed at level emulated-forward, ready after 93 s (in an earlier run" in text
    assert "  modules   240 load, 1 need the GPU's driver and could not be tried\n" in text
    assert "  warning   ERROR \\x1b[31m once\n" in text


@pytest.mark.parametrize(("ran", "seconds", "earlier"), [(True, 110.0, False), (True, 1.2, True), (False, 110.0, True)])
def test_the_times_of_an_earlier_smoke_run_are_marked(
    session: Session, ran: bool, seconds: float, earlier: bool
) -> None:
    smoked = replace(everything(session), stages=(StageResult(stage="smoke", ran=ran, seconds=seconds),))
    line = "  smoke     passed at level emulated, ready after 93 s"
    assert (f"{line}\n" in summary([smoked], 1.0)) is not earlier


def test_what_was_set_for_emulation_only_is_named(session: Session) -> None:
    verdict = replace(VERDICT, emulation=("QEMU_CPU=max,sve=off", "a second process helped"))
    text = summary([everything(session, verdict=verdict)], 1.0)
    assert "  emulation QEMU_CPU=max,sve=off; a second process helped\n" in text


@pytest.mark.parametrize(
    ("findings", "shown"),
    [((), "no findings"), (("info", "info"), "2 notes"), (("warning", "error"), "1 error, 1 warning")],
)
def test_a_count_of_zero_warnings_does_not_contradict_other_stages(
    session: Session, findings: tuple[Severity, ...], shown: str
) -> None:
    made = (Finding(rule="r", severity=severity, wheel="w", file="f", detail="d", fix="x") for severity in findings)
    audit = Audit(cell="one", base="b", findings=tuple(made))
    text = summary([everything(session, audit=audit)], 1.0)
    assert f"  audit     {shown}\n" in text


def test_a_standalone_plan_says_how_to_build_it(session: Session) -> None:
    made = everything(session, image=None, verdict=None, publication=None)
    result = replace(made, run=made.run.with_records(replace(made.run.plan, layers=("runtime-1",))))
    assert "build it" not in summary([result], 1.0)
    (result.run.folder.layers / "runtime-1").mkdir(parents=True)
    text = summary([result], 1.0)
    assert f"  build it  cd {shlex.quote(str(result.run.folder.path))} && docker buildx build .\n" in text
    assert "run it" not in text


def test_an_unpublished_image_runs_from_the_engine(session: Session) -> None:
    text = summary([everything(session, publication=None)], 1.0)
    assert text.partition("run it")[2].split("\n")[0].endswith(" jbuild/demo:one")


def test_a_publication_without_tags_is_no_trouble(session: Session) -> None:
    assert "jbuild/demo:one" in summary([everything(session, publication=publication())], 1.0)


def test_a_jetson_needs_its_runtime(session: Session) -> None:
    text = summary([everything(session, job=make_job(platform=make_jetson()))], 1.0)
    assert "--runtime nvidia" in text


def test_a_run_that_did_nothing_says_so(session: Session) -> None:
    text = summary([everything(session, ran=False), everything(session, ran=False)], 0.31)
    assert "demo/one: unchanged" in text
    assert "lock unchanged" in text
    assert text.splitlines()[-1] == "nothing to do: everything is up to date (0.3 s)"


def test_failures_are_counted_and_named(session: Session) -> None:
    failed = result(session, error=SmokeError("it said Rome"), lock=Locked(lock=make_lock()))
    text = summary([everything(session), failed, everything(session, ran=False)], 59.0)
    assert "demo/one: failed\n  error     it said Rome" in text
    assert text.splitlines()[-1] == "1 done, 1 unchanged, 1 failed in 59.0 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (0.42, "0.4 s"),
        (59.4, "59.4 s"),
        (59.7, "1 min 0 s"),
        (59.9, "1 min 0 s"),
        (60, "1 min 0 s"),
        (119.7, "2 min 0 s"),
        (461.0, "7 min 41 s"),
        (725, "12 min 5 s"),
    ],
)
def test_time(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "problem", "1 problem"), (2, "problem", "2 problems"), (0, "file or folder", "0 files or folders")],
)
def test_counts_have_their_number(count: int, noun: str, text: str) -> None:
    assert count_of(count, noun) == text


def test_references_are_every_tag_in_every_registry() -> None:
    one = publication("a", "b")
    both = Publication(digest=DIGEST, registries=(*one.registries, *publication("c").registries))
    assert [each.rpartition(":")[2] for each in both.references] == ["a", "b", "c"]


def test_json_of_a_cell_is_json(session: Session) -> None:
    shown = json.loads(json.dumps(records.to_json(finished_cell(everything(session)))))
    assert (shown["cell"], shown["status"], shown["digest"], shown["size"]) == ("one", "done", DIGEST, 500_002_000)
    assert shown["stages"] == {"lock": {"ran": True, "seconds": 61.0}}
    assert shown["verdict"]["answers"][0]["text"].strip().startswith("The capital")
    assert shown["publication"]["registries"][0]["tags"] == [{"name": "1.0-cpu", "previous": None}]
    assert shown["error"] is None


def test_json_of_a_cell_that_failed(session: Session) -> None:
    shown = json.loads(json.dumps(records.to_json(finished_cell(result(session, error=SmokeError("no", hint="look"))))))
    assert shown["status"] == "failed"
    assert shown["error"]["exit_code"] == 10
    assert (shown["lock"], shown["plan"], shown["digest"], shown["verdict"]) == (None, None, None, None)


def failed(cell: str, platform: str = "debian-12", **more: Any) -> tuple[str, NoWheelsError]:
    said = {"where": "demo==1", "hint": f"`jbuild why demo --cell {cell}` tells more", "log": "Because", **more}
    return cell, NoWheelsError(f"no wheels work together for {platform}", **said)


def test_cells_that_failed_of_the_same_are_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    other = ("c", SmokeError("no wheels work together for debian-12", where="demo==1"))
    show_failures([failed("one"), failed("b"), failed("d", "debian-13"), other, failed("two")], Console())
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.endswith("failed:")] == [
        "one, b, two failed:",
        "d failed:",
        "c failed:",
    ]
    assert err.count("error: ") == 3
    assert "  next: `jbuild why demo --cell one` tells more" in err


@pytest.mark.parametrize("more", [{"log": "Another"}, {"hint": "wait"}, {"where": "demo/elsewhere"}])
def test_whatever_is_another_is_told_apart(more: dict[str, str]) -> None:
    assert len(alike([failed("one"), failed("two", **more)])) == 2


def test_places_that_differ_by_the_cell_only_are_the_same() -> None:
    pairs = [failed("one", where="locks/demo/pylock.one.toml"), failed("two", where="locks/demo/pylock.two.toml")]
    ((cells, error),) = alike(pairs)
    assert (cells, error) == (["one", "two"], pairs[0][1])


def test_table_has_columns_and_no_trailing_spaces() -> None:
    text = table(("name", "n"), [("long name", "1"), ("x", "")])
    assert text == "name       n\nlong name  1\nx"


def test_table_without_rows() -> None:
    assert table(("name", "n"), []) == "name  n"

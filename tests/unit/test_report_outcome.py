"""What came of planned cells, as people and GitHub's summary show it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from result_factory import everything, result

from builder.cli.run_view import finished_cell
from builder.cli.verbs.summary import Outcome, counted, markdown, plain, read_outcomes
from builder.errors import BuildError, UsageError
from builder.host import records
from builder.project.ci.github_jobs import CiPlan, MatrixEntry, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session

    CommandLine = Callable[..., tuple[int, str, str]]


def entry(cell: str) -> MatrixEntry:
    return MatrixEntry(
        recipe="demo",
        cell=cell,
        name=f"demo {cell}",
        architecture="arm64",
        platform="linux/arm64",
        runner="r",
        smoke_runner="",
    )


def write_plan(path: Path, *cells: str) -> Path:
    skipped = (Skipped(recipe="demo", cell="never", status="impossible", reason="no such board"),)
    path.write_text(json.dumps(records.to_json(CiPlan(include=tuple(map(entry, cells)), skipped=skipped))))
    return path


def write_result(path: Path, *cells: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"recipe": "demo", "seconds": 1.0, "cells": cells}))
    return path


@pytest.fixture
def files(tmp_path: Path, session: Session) -> tuple[list[Path], Path]:
    """Results of two cells, one of which failed, and a plan of three."""
    error = BuildError("apt failed", where="demo/two", hint="jbuild doctor", log="one\n<b>two</b>\n\n\nlast")
    failed = {**records.to_json(finished_cell(result(session, error=error))), "cell": "two"}
    results = [
        write_result(tmp_path / "1.json", records.to_json(finished_cell(everything(session)))),
        write_result(tmp_path / "2.json", failed, {"cell": "odd", "status": "impossible", "reason": "why"}),
    ]
    return results, write_plan(tmp_path / "plan.json", "one", "two", "three")


def test_every_planned_cell_has_a_line(files: tuple[list[Path], Path]) -> None:
    found = read_outcomes(*files)
    assert [(one.cell, one.status) for one in found] == [
        ("one", "done"),
        ("two", "failed"),
        ("three", "missing"),
        ("odd", "impossible"),
        ("never", "impossible"),
    ]
    assert counted(found) == "1 done, 1 failed, 1 missing, 2 impossible"
    one, two, three, *_ = found
    assert (one.level, one.answers, one.tags) == (
        "emulated",
        (" The capital\nis Paris.\x1b[31m ",),
        ("localhost:5000/vllm:1.0-cpu",),
    )
    assert (two.reason, two.hint) == ("apt failed", "jbuild doctor")
    assert "no result" in three.reason


def test_a_failure_names_its_stage_and_time_and_the_jobs(
    files: tuple[list[Path], Path], command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files[0][1]
    document = json.loads(path.read_text())
    document["cells"][0]["ended"] = "2026-11-02T10:00:59+00:00"
    path.write_text(json.dumps(document))
    assert "at audit, 2026-11-02 10:00 UTC: apt failed" in command_line("summary", str(path))[1]
    for name, value in (("SERVER_URL", "https://github.com"), ("REPOSITORY", "acme/edge"), ("RUN_ID", "7")):
        monkeypatch.setenv(f"GITHUB_{name}", value)
    link = "[The jobs of this run, with their logs](https://github.com/acme/edge/actions/runs/7)"
    out = command_line("summary", str(path), "--format", "github")[1]
    assert link in out
    assert f"at audit{plain(', 2026-11-02 10:00 UTC: apt failed')}" in out
    assert link not in command_line("summary", str(files[0][0]), "--format", "github")[1]
    monkeypatch.setenv("GITHUB_REPOSITORY", "a b](x)")
    assert "actions/runs" not in command_line("summary", str(path), "--format", "github")[1]
    # As an older jbuild wrote it.
    del document["cells"][0]["ended"], document["cells"][0]["failed_at"]
    path.write_text(json.dumps(document))
    assert read_outcomes([path], None)[0].cause == "apt failed"


def test_without_a_plan_what_was_run_is_all(files: tuple[list[Path], Path]) -> None:
    assert [one.cell for one in read_outcomes(files[0], None)] == ["one", "two", "odd"]


def test_the_table_for_github(files: tuple[list[Path], Path]) -> None:
    text = markdown(read_outcomes(*files))
    lines = text.splitlines()
    assert lines[0] == "## jbuild: 1 done, 1 failed, 1 missing, 2 impossible"
    assert lines[2] == "| recipe | cell | status | reason | size | level | answer | times |"
    row = next(line for line in lines if "✅" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["demo", "one"]
    assert cells[4:6] == ["500 MB", "emulated"]
    assert cells[6] == "The capital is Paris&#46;&#92;x1b&#91;31m"
    assert "<pre>one\n&lt;b&gt;two&lt;/b&gt;\n \n \nlast</pre>" in text
    assert text.count("<details>") == text.count("</details>") == 1
    assert "localhost&#58;5000&#47;vllm&#58;1&#46;0-cpu" in text


@pytest.mark.parametrize(
    "said",
    ["a | b", "[x](http://e)", "<script>", "`code`", "**x** _y_", "www.example.com", "@somebody #1", "::error::x"],
)
def test_what_a_model_says_is_no_markup(said: str) -> None:
    shown = plain(said)
    assert not re.search(r"[^\w &#;-]|_", shown)
    row = markdown([Outcome(recipe="demo", cell="one", status="done", answers=(said,))]).splitlines()[4]
    assert row.count("|") == 9


def test_only_so_many_logs_fit_into_a_summary() -> None:
    found = [Outcome(recipe="demo", cell=f"c{n}", status="failed", log="x" * 10) for n in range(256)]
    text = markdown(found)
    assert text.count("<details>") == 20
    assert "and 236 more" in text
    assert len(text) < 2**20


def test_the_verb_fails_if_a_cell_did(files: tuple[list[Path], Path], command_line: CommandLine) -> None:
    results, plan = files
    code, out, err = command_line("summary", *map(str, results), "--plan", str(plan), "--format", "github")
    assert (code, err) == (13, "")
    assert out == markdown(read_outcomes(results, plan)) + "\n"
    code, out, _ = command_line("summary", str(results[0]))
    assert code == 0
    assert out.splitlines()[-1] == "1 done"
    code, out, _ = command_line("summary", str(results[1]), "--json")
    assert code == 13
    assert [cell["status"] for cell in json.loads(out)["cells"]] == ["failed", "impossible"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": "demo", "cells": [1]}', '{"recipe": 1, "cells": [{}]}'])
def test_what_is_no_result(tmp_path: Path, text: str, command_line: CommandLine) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    code, out, err = command_line("summary", str(path))
    assert (code, out) == (2, "")
    assert "not the result of a run" in err
    assert str(path) in err


def test_what_is_no_plan(tmp_path: Path) -> None:
    for text in ("", "[]", '{"include": [{"recipe": "demo"}]}'):
        path = tmp_path / "plan.json"
        path.write_text(text)
        with pytest.raises(UsageError, match="not a plan of jobs"):
            read_outcomes((), path)
    with pytest.raises(UsageError, match="not a plan of jobs"):
        read_outcomes((), tmp_path / "none.json")


def test_the_verb_wants_something_to_sum_up(command_line: CommandLine) -> None:
    code, _, err = command_line("summary")
    assert code == 2
    assert "name result files, or a --plan" in err

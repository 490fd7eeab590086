"""What people, CI logs and programs see."""

from __future__ import annotations

import io
import itertools
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.errors import DocumentError, JbuildError, LockError, Problem
from builder.host import console as console_module
from builder.host.console import Console


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Let standard error be a person's terminal; not a fixture, since pytest sets the stream anew for each phase."""
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    return stream


def test_plain_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("working")
    console.warn("careful")
    console.success("done")
    captured = capsys.readouterr()
    assert captured.err == "working\nwarning: careful\ndone\n"
    assert captured.out == ""


def test_quiet_shows_notes_and_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("working")
    console.success("done")
    console.note("needed")
    console.warn("careful")
    assert capsys.readouterr().err == "needed\nwarning: careful\n"


def test_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    Console().warn("careful")
    assert "\x1b[33mwarning: careful" in terminal.getvalue()


def test_no_color_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    Console().warn("careful")
    assert terminal.getvalue() == "warning: careful\n"


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_ci_and_dumb_terminals_get_plain_lines(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    terminal = watched(monkeypatch)
    monkeypatch.setenv(name, value)
    console = Console()
    with console.task("downloading", 10) as task:
        task.advance(10)
    console.say("done")
    assert terminal.getvalue() == "done\n"


def test_square_brackets_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    Console().say("[red]vllm[cpu][/red]")
    assert terminal.getvalue() == "[red]vllm[cpu][/red]\n"


def test_groups_fold_on_github(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with Console().group("build"):
        pass
    assert capsys.readouterr().err == "::group::build\n::endgroup::\n"


def test_groups_are_closed_on_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(ValueError), Console().group("build"):
        raise ValueError
    assert capsys.readouterr().err.endswith("::endgroup::\n")


def test_groups_are_headings_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().group("build"):
        pass
    assert capsys.readouterr().err == "build\n"


def test_json_is_all_that_standard_output_holds(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.say("working")
    with console.group("group"), console.task("task", 5) as task:
        task.advance(5)
    console.result({"a": [1, "é"]}, "the text for people")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": [1, "é"]}
    assert "the text for people" not in captured.err


def test_result_without_json_is_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    Console().result({"a": 1}, "one")
    Console().result({"a": 1})
    assert capsys.readouterr().out == "one\n"


def test_failure_shows_everything_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    log = "\n".join(f"line {i}" for i in range(100))
    Console().failure(LockError("no wheels", where="demo/one", hint="relax it", log=log))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["error: no wheels", "  where: demo/one", "  the last 25 lines of its log:"]
    assert lines[3] == "  | line 75"
    assert lines[-2:] == ["  | line 99", "  next: relax it"]


def test_a_log_of_one_line_does_not_repeat_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://index.example/simple/torch/"
    Console().failure(LockError("the index does not answer", where=url, log=f"{url}: the server answers 503\n"))
    assert capsys.readouterr().err.splitlines()[1:] == [f"  where: {url}", "  its log:", "  | the server answers 503"]


def test_failure_lists_every_problem_of_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        Problem(path=Path("a.toml"), line=3, key="models[0].source", message="is empty", hint="name one"),
        Problem(path=Path("b.toml"), line=None, key="", message="not valid TOML"),
    ]
    Console(as_json=True).failure(DocumentError("mistakes", problems))
    captured = capsys.readouterr()
    assert "  a.toml:3: models[0].source: is empty (name one)\n  b.toml: not valid TOML\n" in captured.err
    found = json.loads(captured.out)
    assert found["exit_code"] == 3
    assert found["problems"][0] == {
        "file": "a.toml",
        "line": 3,
        "key": "models[0].source",
        "message": "is empty",
        "hint": "name one",
    }


def test_failure_that_is_only_part_of_a_result_is_not_one(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=True).failure(JbuildError("x"), as_result=False)
    assert capsys.readouterr().out == ""


def test_a_log_line_cannot_command_github(capsys: pytest.CaptureFixture[str]) -> None:
    Console().failure(JbuildError("x", log="::set-output name=a::b"))
    assert all(not line.lstrip().startswith("::") for line in capsys.readouterr().err.splitlines())


def test_plain_progress_speaks_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console_module, "_PLAIN_EVERY_S", 0.0)
    with Console().task("downloading", 2_000_000) as task:
        task.advance(1_000_000)
        task.note("a wheel")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "downloading: 1 of 2 MB"
    assert lines[1].startswith("downloading (0 s): a wheel")


def test_plain_progress_speaks_about_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    with Console().task("verifying", 600, unit="B") as task:
        while next(seconds) < 600:
            task.note("the same")
    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 12


def test_things_are_counted_by_their_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console_module, "_PLAIN_EVERY_S", 0.0)
    with Console().task("unpacking", 3, unit="wheels") as task:
        task.advance(1)
    with Console().task("solving", unit="steps") as task:
        task.advance(2)
    assert capsys.readouterr().err == "unpacking: 1 of 3 wheels\nsolving: 2 steps\n"


def test_live_progress_leaves_the_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    console = Console()
    with console.task("first", 10) as first, console.task("second", unit="steps") as second:
        first.advance(5)
        second.note("a step")
        console.say("between")
    text = terminal.getvalue()
    assert "between" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor was hidden and is back


def test_end_takes_live_progress_down_and_is_safe_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    console = Console()
    with console.task("first", 10) as task:
        console.end()
        console.end()
        task.advance(1)
    assert terminal.getvalue().count("\x1b[?25h") == 1


@pytest.mark.parametrize("live", [True, False])
def test_work_that_winds_down_may_count_on(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if live:
        watched(monkeypatch)
    monkeypatch.setattr(console_module, "_PLAIN_EVERY_S", 0.0)
    console = Console()
    with console.task("first", 10) as task:
        pass
    task.advance(1)
    task.note("late")


def shown(console: Console) -> list[tuple[str, float | None, float]]:
    """Return title, total and state of each live line."""
    assert console._progress
    return [(task.description, task.total, task.completed) for task in console._progress.tasks]


def test_work_within_work_takes_over_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch)
    console = Console()
    with console.task("unpacking", 4, unit="wheels") as outer:
        outer.advance(1)
        with console.task("downloading", 100) as inner:
            outer.advance(1)
            inner.advance(30)
            assert shown(console) == [("downloading", 100, 30)]
        assert shown(console) == [("unpacking", 4, 2)]
        outer.advance(1)
        assert shown(console) == [("unpacking", 4, 3)]
    assert console._progress is None


def test_each_cell_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    watched(monkeypatch)
    console, begun, seen = Console(), threading.Barrier(3, timeout=100), threading.Event()

    def work(cell: str) -> None:
        with console.working_on(cell), console.task(f"{cell}: building"), console.task("downloading"):
            begun.wait()
            seen.wait()

    threads = [threading.Thread(target=work, args=(cell,)) for cell in ("one", "two")]
    for thread in threads:
        thread.start()
    begun.wait()
    titles = sorted(title for title, _, _ in shown(console))
    seen.set()
    for thread in threads:
        thread.join()
    assert titles == ["one: downloading", "two: downloading"]
    assert console._progress is None


def test_plain_lines_name_the_cell_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console_module, "_PLAIN_EVERY_S", 0.0)
    console = Console()
    with console.working_on("one"), console.task("downloading", 2e6) as task:
        task.advance(1e6)
    with console.task("downloading", 2e6) as task:
        task.advance(1e6)
    assert capsys.readouterr().err.splitlines() == ["one: downloading: 1 of 2 MB", "downloading: 1 of 2 MB"]


def test_cancel_stops_every_task_at_its_next_step() -> None:
    console = Console()
    with console.task("work", 10) as task:
        task.advance(1)
        console.cancel()
        with pytest.raises(KeyboardInterrupt):
            task.advance(1)
        with pytest.raises(KeyboardInterrupt):
            task.note("more")


def test_rich_is_not_imported_for_plain_output() -> None:
    from builder.host import process  # noqa: PLC0415

    code = "import sys; from builder.host.console import Console; Console().say('x'); print('rich' in sys.modules)"
    assert process.run([sys.executable, "-c", code]).stdout == "False\n"


@pytest.fixture
def on_github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Console:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    return Console()


def test_a_mistake_is_shown_beside_its_line_on_github(
    on_github: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipes" / "a,b.toml"
    problems = [
        Problem(path=path, line=3, key="base.image", message="100% wrong", hint="did you mean `x`?"),
        Problem(path=path, line=None, key="", message="not valid TOML:\nline"),
    ]
    on_github.failure(DocumentError("recipe demo: mistakes", problems))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("::")] == [
        (
            "::error file=recipes/a%2Cb.toml,line=3,title=recipe demo%3A mistakes"
            "::base.image: 100%25 wrong (did you mean `x`?)"
        ),
        "::error file=recipes/a%2Cb.toml,title=recipe demo%3A mistakes::not valid TOML:%0Aline",
    ]
    assert lines[0] == "error: recipe demo: mistakes"


def test_other_errors_and_warnings_are_annotations_on_github(
    on_github: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    on_github.failure(LockError("no wheels", hint="jbuild why demo"))
    on_github.warn("careful")
    on_github.warn("careful")
    assert capsys.readouterr().err.splitlines() == [
        "error: no wheels",
        "  next: jbuild why demo",
        "::error title=jbuild::no wheels%0Anext: jbuild why demo",
        "warning: careful",
        "::warning::careful",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::add-mask::a", ": :add-mask::a"),
        ("  ::error::a\n::debug::b", "  : :error::a\n: :debug::b"),
        ("done ##[error]x", "done ## [error]x"),
        ("a::b ## c", "a::b ## c"),
    ],
)
def test_what_others_print_is_no_command_to_the_runner(
    on_github: Console, capsys: pytest.CaptureFixture[str], text: str, shown: str
) -> None:
    on_github.say(text)
    assert capsys.readouterr().err == f"{shown}\n"


def test_elsewhere_nothing_is_annotated_or_changed(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.failure(LockError("no wheels"))
    console.say("::add-mask::a ##[x]")
    assert capsys.readouterr().err == "error: no wheels\n::add-mask::a ##[x]\n"

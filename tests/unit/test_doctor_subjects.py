"""What the doctor looks at, as data, and how it is told."""

from __future__ import annotations

import ast
import inspect
import string
import sys
from typing import TYPE_CHECKING, Any

import pytest

from builder.cli.verbs.maintenance import checks_text, verdict
from builder.project.doctor import (
    base_check,
    check_table,
    disk_check,
    emulation_check,
    jetson_check,
    network_check,
    proxy_check,
    tools_check,
    vault_check,
)
from builder.project.doctor.check_table import Check, ok, problem, skipped
from builder.project.doctor.examination import AppliedFix

if TYPE_CHECKING:
    from types import ModuleType

ROOMS = (
    base_check,
    disk_check,
    emulation_check,
    jetson_check,
    network_check,
    proxy_check,
    tools_check,
    vault_check,
)


def strings(node: ast.expr) -> set[str]:
    """Return the words that an expression can stand for, as far as it is made of literals."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def used(module: ModuleType) -> set[tuple[str, str]]:
    """Return the problems that a module reports; a name that is not a literal matches any."""
    tree = ast.parse(inspect.getsource(module))
    assigned = {
        target.id: strings(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "problem"]
    pairs = set()
    for call in calls:
        names, kinds = (
            assigned.get(arg.id, {"*"}) if isinstance(arg, ast.Name) else strings(arg) or {"*"} for arg in call.args[:2]
        )
        pairs |= {(name, kind) for name in names for kind in kinds}
    return pairs


def test_checks_report_every_problem_of_the_table() -> None:
    rows = {(row.name, each.id) for row in check_table.check_rows().values() for each in row.problems}
    found = {pair for module in ROOMS for pair in used(module)}
    exact = {pair for pair in found if "*" not in pair}
    kinds = {kind for name, kind in found if name == "*"}
    assert exact - rows == set()
    assert {(name, kind) for name, kind in rows if kind not in kinds} - exact == set()


def test_every_problem_has_a_reason_and_a_fix() -> None:
    for row in check_table.check_rows().values():
        assert row.why, row.name
        assert len({each.id for each in row.problems}) == len(row.problems)
        for each in row.problems:
            fields = {name for _, name, _, _ in string.Formatter().parse(each.fix) if name is not None}
            wanted = {name for word in each.safe for _, name, _, _ in string.Formatter().parse(word) if name}
            values: dict[str, Any] = {name: f"<{name}>" for name in fields | wanted}
            found = problem(row.name, each.id, "seen", **values)
            assert found.mend
            assert found.state == each.state
            assert all("{" not in word for word in found.fix)


@pytest.mark.parametrize("word", ["sudo", "restart", "rm", "prune --all", "kill", "down", "purge"])
def test_safe_commands_ask_for_no_rights_and_end_nothing(word: str) -> None:
    for row in check_table.check_rows().values():
        for each in row.problems:
            assert word not in " ".join(each.safe).split(" ") or word == "prune --all"


def test_a_value_cannot_become_a_word_of_a_command() -> None:
    found = problem("uv", "old", "0.1", least="0.8; rm -rf /")
    assert found.fix == (sys.executable, "-m", "pip", "install", "--upgrade", "uv>=0.8; rm -rf /")


def test_the_safe_command_is_left_away_where_it_would_not_help() -> None:
    assert problem("engine", "none", "none", fixable=False, fix="start it", script="up").fix == ()


def test_a_report_is_a_line_a_check_and_more_for_what_is_not_well() -> None:
    checks = [
        ok("uv", "uv 0.13"),
        skipped("device", "no Jetson"),
        problem("stand-in", "used", "debian is not \x1b[31mdebian", rule="debian"),
        problem("stand-in", "used", "ubuntu", rule="ubuntu"),
        problem("disk", "short", "1 GB free"),
    ]
    lines = checks_text(checks, [AppliedFix(command="a"), AppliedFix(command="b", failure="it could not")]).splitlines()
    assert lines[0] == "ok       uv            uv 0.13"
    assert lines[1] == "n/a      device        no Jetson"
    assert lines[2] == "warning  stand-in      debian is not \N{REPLACEMENT CHARACTER}[31mdebian"
    assert [line.strip().partition(":")[0] for line in lines[3:10]] == [
        "why",
        "fix",
        "warning  stand-in      ubuntu",
        "fix",
        "error    disk          1 GB free",
        "why",
        "fix",
    ]
    assert lines[-3:-1] == ["fixed: a", "not fixed: b: it could not"]
    assert lines[-1].startswith("to be fixed: disk; warnings: stand-in; `jbuild doctor --fix`")


def test_a_machine_without_faults() -> None:
    assert verdict([ok("uv", "here")]) == "this machine can build images"
    bad = Check(name="uv", state="warning", found="", why="", mend="do", fix=())
    assert verdict([ok("uv", "here")], builds=False) == "this machine can load and run images"
    assert verdict([bad]) == "this machine can build images; warnings: uv"

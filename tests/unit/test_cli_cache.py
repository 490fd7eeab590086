"""Every verb where the cache cannot be used: one clear error of those that need it, and no harm to the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """description = "A demonstration"
[matrix]
distribution = ["debian-12"]
[packages]
requires = ["demo"]
[[models]]
name = "tiny"
source = "../model"
[[smoke.questions]]
ask = "Anything?"
expect = "Yes"
[publish]
repository = "vllm"
tags = ["{cell}"]
registries = ["127.0.0.1:9/team"]
"""
IMAGE = "127.0.0.1:9/team/vllm@sha256:" + "0" * 64
NEEDING = [
    *(("recipe", "demo"), ("recipe", "demo", "--dry-run"), ("recipe", "demo", "--push"), ("lock", "demo")),
    *(("lock", "demo", "--check"), ("audit", "demo"), ("audit", "--wheels", "demo-1.0-py3-none-any.whl")),
    *(("render", "demo"), ("build", "demo"), ("system", "demo"), ("smoke", "demo"), ("push", "demo"), ("why", "demo")),
    *(("promote", "demo"), ("promote", IMAGE, "--to", "127.0.0.1:9/team"), ("models", "lock", "demo")),
    *(("models", "fetch", "demo"), ("models", "verify", "demo"), ("cache", "prune"), ("cache", "prune", "--dry-run")),
    ("cache", "info"),
]
UNTROUBLED = [("list",), ("show", "demo"), ("matrix", "demo")]


@pytest.fixture(params=["file", "below a file", "/proc/jbuild"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache that even root cannot make."""
    (tmp_path / "file").write_text("a file")
    path = {"file": str(tmp_path / "file"), "below a file": str(tmp_path / "file" / "cache")}
    found: str = path.get(request.param, request.param)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.toml").write_text(RECIPE)
    make_wheel(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JBUILD_CACHE", found)
    return found


@pytest.mark.parametrize("arguments", NEEDING, ids=" ".join)
def test_a_verb_that_needs_it_ends_with_one_error(cache: str, command_line: Any, arguments: tuple[str, ...]) -> None:
    code, out, err = command_line(*arguments)
    lines = err.splitlines()
    assert (code, out) == (12, ""), err
    assert lines[0].startswith("error: the cache cannot be used: ")
    assert lines[1:] == [f"  where: {cache}", "  next: set JBUILD_CACHE to a writable folder"]


@pytest.mark.parametrize("arguments", UNTROUBLED, ids=" ".join)
def test_a_verb_that_does_not_need_it_does_its_work(cache: str, command_line: Any, arguments: tuple[str, ...]) -> None:
    code, out, err = command_line(*arguments)
    assert (code, err) == (0, "")
    assert out

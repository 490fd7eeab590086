"""Dealing out builds: to the least busy, away from the dead, and no further than there are builders."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from engine_factory import make_engine

from builder.errors import BuildError, EngineError, JbuildError, ProgramMissingError
from builder.host.console import Console
from builder.pipeline import builders as module
from builder.pipeline.builders import Builders, HangingBuilderError, ask, hanging

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = make_engine()


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Builders that answer that they are dead, with what they say."""
    found: dict[str, str] = {}
    monkeypatch.setattr(module, "ask", lambda name, _: found.get(name))
    return found


def make(*names: str) -> Builders:
    return Builders(names, Console(quiet=True))


def test_without_names_the_engine_builds() -> None:
    assert make().build("c", ENGINE, lambda name: (name,)) == (None,)


def test_a_name_counts_once() -> None:
    assert make("a", "b", "a").names == ("a", "b")


def test_cells_go_to_the_least_busy() -> None:
    builders, gate = make("a", "b"), threading.Barrier(4, timeout=100)
    seen: list[str | None] = []

    def work(name: str | None) -> None:
        seen.append(name)
        gate.wait()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(builders.build, "c", ENGINE, work) for _ in range(4)]:
            future.result()
    assert sorted(seen, key=str) == ["a", "a", "b", "b"]


def test_a_dead_builders_cell_goes_to_another(dead: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    builders, seen = make("a", "b", "c"), []

    def work(name: str | None) -> str:
        seen.append(name)
        if name == "a":
            dead["a"] = "gone"
            raise BuildError("the connection was lost")
        return str(name)

    assert builders.build("one", ENGINE, work) == "b"
    assert [builders.build("two", ENGINE, str) for _ in range(3)] == ["b", "b", "b"]
    assert seen == ["a", "b"]
    assert "one: builder a has died (gone); its cells go to b, c" in capsys.readouterr().err


def test_a_builder_that_hangs_is_dead_whatever_it_answers(
    dead: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(name: str | None) -> str:
        if name == "a":
            raise hanging("demo/one", 3600, tmp_path / "build.log", "#5 RUN")
        return str(name)

    assert make("a", "b").build("one", ENGINE, work) == "b"
    assert "one: builder a has died (it hangs); its cells go to b" in capsys.readouterr().err
    with pytest.raises(HangingBuilderError, match="no output from the builder for 3600 s") as caught:
        make("a").build("one", ENGINE, work)
    assert (caught.value.exit_code, "`silent-s` under [build]" in (caught.value.hint or "")) == (7, True)


def test_a_build_that_fails_on_a_living_builder_fails(dead: dict[str, str]) -> None:
    seen = []

    def work(name: str | None) -> None:
        seen.append(name)
        raise BuildError("the step failed")

    with pytest.raises(BuildError, match="the step failed"):
        make("a", "b").build("one", ENGINE, work)
    assert seen == ["a"]


def test_the_last_one_that_dies(dead: dict[str, str]) -> None:
    dead |= {"a": "gone", "b": "away"}

    def work(_: str | None) -> None:
        raise EngineError("the engine stopped answering")

    builders = make("a", "b")
    with pytest.raises(EngineError) as caught:
        builders.build("one", ENGINE, work)
    assert caught.value.message == "no builder is left: a: gone; b: away"
    assert (caught.value.where, bool(caught.value.hint)) == ("a, b", True)
    with pytest.raises(EngineError, match="no builder is left"):
        builders.build("two", ENGINE, str)


def test_an_only_builder_keeps_its_own_error(dead: dict[str, str]) -> None:
    dead["a"] = "gone"

    def work(_: str | None) -> None:
        raise EngineError("the engine stopped answering")

    with pytest.raises(EngineError, match="the engine stopped answering"):
        make("a").build("one", ENGINE, work)


def test_an_interruption_is_no_death(dead: dict[str, str]) -> None:
    dead |= {"a": "gone", "b": "gone"}

    def work(_: str | None) -> None:
        raise KeyboardInterrupt

    builders = make("a", "b")
    with pytest.raises(KeyboardInterrupt):
        builders.build("one", ENGINE, work)
    assert builders.build("two", ENGINE, str) == "a"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Name: a'; echo 'Status: running'", None),
        ("echo 'Status: inactive'", None),
        ("echo 'Error:         Cannot connect to the Docker daemon'", "Cannot connect to the Docker daemon"),
        ("echo 'context deadline exceeded' >&2; exit 1", "context deadline exceeded"),
        ("exit 1", "it does not answer"),
        ("sleep 60", "it does not answer"),
    ],
)
def test_asking(script: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.5)
    fake(tmp_path, monkeypatch, script)
    assert ask("a", {}) == reason


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_builder_that_never_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "echo 'ERROR: no builder \"a\" found' >&2; exit 1")

    def work(_: str | None) -> None:
        raise BuildError("no builder")

    with pytest.raises(EngineError) as caught:
        make("a", "b").build("one", ENGINE, work)
    assert (caught.value.message, caught.value.where) == ("there is no such builder", "a")


def test_docker_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissingError) as caught:
        ask("a", {})
    assert isinstance(caught.value, JbuildError)

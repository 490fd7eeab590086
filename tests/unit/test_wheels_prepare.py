"""Fetching and unpacking together, in processes that end as they should."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_wheel

from builder.errors import IntegrityError, JbuildError
from builder.host.concurrency import workers
from builder.host.console import Console
from builder.host.session import Session
from builder.image.wheels import tree as prepare_module
from builder.image.wheels.tree import prepare
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_every_wheel_gets_a_tree(session: Session, tmp_path: Path) -> None:
    wheels = [locked(make_wheel(tmp_path, f"demo{i}")) for i in range(5)]
    trees = prepare(wheels, PYTHON, None, session)
    assert list(trees) == [wheel.sha256 for wheel in wheels]
    assert all(next(tree.rglob("*.dist-info")).name.startswith("demo") for tree in trees.values())


def test_what_is_there_needs_neither_wheels_nor_processes(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = [locked(make_wheel(tmp_path))]
    first = prepare(wheels, PYTHON, None, session)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(prepare_module, "workers", refuse)
    monkeypatch.setattr(prepare_module, "fetch", refuse)
    assert prepare(wheels, PYTHON, None, session) == first


def test_a_failure_in_a_process_is_the_failure(session: Session, tmp_path: Path) -> None:
    wheels = [locked(make_wheel(tmp_path, "good")), locked(make_wheel(tmp_path, "bad", wheel_version="9.0"))]
    with pytest.raises(IntegrityError, match=r"bad-1\.0") as caught:
        prepare(wheels, PYTHON, None, session)
    assert caught.value.hint


def test_a_cancelled_run_ends_and_does_not_hang(session: Session, tmp_path: Path) -> None:
    console = Console(quiet=True)
    own = Session(workspace=session.workspace, config=session.config, console=console)
    wheels = [locked(make_wheel(tmp_path, f"demo{i}")) for i in range(3)]
    fetch(wheels, session)
    console.cancel()
    with pytest.raises(KeyboardInterrupt):
        prepare(wheels, PYTHON, None, own)


def test_a_process_that_was_killed_is_a_clear_error() -> None:
    with pytest.raises(JbuildError, match="was killed") as caught, workers() as pool:
        pool.submit(os._exit, 1).result()
    assert "memory" in caught.value.message


def test_processes_do_not_see_ctrl_c() -> None:
    with workers() as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN

"""Packing the layers of a cell: fetching, compiling and compressing together, which ends as it should."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import locked, make_wheel
from layer_files import COMPILER, wheels_layer

from builder.errors import DiskError, IntegrityError, JbuildError, NetworkError
from builder.host.concurrency import workers
from builder.host.console import Console
from builder.host.process import PipedProgram
from builder.host.session import Session
from builder.image.layers import pack_layers as pack_module
from builder.image.layers.pack_layers import pack_layers
from builder.image.oci import pack as oci_pack
from builder.image.wheels import bytecode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.image.layers.layer import WheelsLayer


def layers_of(session: Session, folder: Path, count: int = 4) -> list[WheelsLayer]:
    found = []
    for number in range(count):
        files = {f"demo{number}/m{index}.py": f"x = {number * index}\n" for index in range(20)}
        wheel = locked(make_wheel(folder, f"demo{number}", files=files))
        found.append(replace(wheels_layer([wheel], session), name=f"libraries-{number:012}"))
    return found


def blobs(session: Session) -> list[Path]:
    return [path for path in session.workspace.images.rglob("*") if path.is_file()]


def test_every_layer_is_packed_in_its_place(session: Session, tmp_path: Path) -> None:
    layers = layers_of(session, tmp_path)
    packed = pack_layers(layers, COMPILER, "one", session)
    assert len({each.diff_id for each in packed}) == 4
    assert pack_layers(layers[::-1], COMPILER, "one", session) == packed[::-1]
    assert len(blobs(session)) == 4


def test_what_is_packed_needs_neither_wheels_nor_processes(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = layers_of(session, tmp_path)
    first = pack_layers(layers, COMPILER, "one", session)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(pack_module, "bytecode_pool", refuse)
    monkeypatch.setattr(pack_module, "fetch", refuse)
    assert pack_layers(layers, COMPILER, "one", session) == first


@pytest.mark.parametrize("processors", [1, 2, 16])
def test_the_number_of_processors_does_not_matter(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    layers = layers_of(session, tmp_path)
    first = pack_layers(layers, COMPILER, "one", session)
    for path in blobs(session):
        path.unlink()
    monkeypatch.setattr("builder.image.wheels.bytecode.os.cpu_count", lambda: processors)
    monkeypatch.setattr(pack_module, "_AT_ONCE", processors)
    assert pack_layers(layers, COMPILER, "one", session) == first


def test_a_failure_of_a_layer_is_the_failure(session: Session, tmp_path: Path) -> None:
    bad = replace(wheels_layer([locked(make_wheel(tmp_path, "bad", wheel_version="9.0"))], session), name="bad-0")
    with pytest.raises(IntegrityError, match=r"bad-1\.0") as caught:
        pack_layers([*layers_of(session, tmp_path), bad], COMPILER, "one", session)
    assert caught.value.hint
    assert not [path for path in blobs(session) if path.name.startswith(".")]


def test_a_wheel_that_cannot_be_fetched_is_the_failure(session: Session, tmp_path: Path) -> None:
    gone = replace(locked(make_wheel(tmp_path, "gone")), url="http://127.0.0.1:9/gone-1.0-py3-none-any.whl")
    with pytest.raises(NetworkError):
        pack_layers([*layers_of(session, tmp_path), wheels_layer([gone], session)], COMPILER, "one", session)
    assert not [path for path in blobs(session) if path.name.startswith(".")]


def test_a_full_disk_leaves_no_half_blob(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(blocks: Iterator[bytes]) -> list[bytes]:
        next(blocks)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(oci_pack, "_read_sample", full)
    with pytest.raises(DiskError, match="the disk is full"):
        pack_layers(layers_of(session, tmp_path), COMPILER, "one", session)
    assert blobs(session) == []
    assert not list(session.workspace.cache.glob("scratch-*"))


def test_a_cancelled_run_ends_and_leaves_no_process(session: Session, tmp_path: Path) -> None:
    console = Console(quiet=True)
    own = Session(workspace=session.workspace, config=session.config, console=console)
    layers = layers_of(own, tmp_path)
    console.cancel()
    with pytest.raises(KeyboardInterrupt):
        pack_layers(layers, COMPILER, "one", own)
    assert blobs(session) == []


def test_compilers_end_with_an_interrupted_run(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[PipedProgram] = []

    def noted(*arguments: Any) -> PipedProgram:
        started.append(PipedProgram(*arguments))
        return started[-1]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bytecode, "PipedProgram", noted)
    monkeypatch.setattr(oci_pack, "compressor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_layers(layers_of(session, tmp_path), COMPILER, "one", session)
    assert started
    assert all(program._child.poll() is not None for program in started)


def test_a_process_that_was_killed_is_a_clear_error() -> None:
    with pytest.raises(JbuildError, match="was killed") as caught, workers() as pool:
        pool.submit(os._exit, 1).result()
    assert "memory" in caught.value.message


def test_processes_do_not_see_ctrl_c() -> None:
    with workers() as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN

"""The store, fetching from folders, and baking."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_session
from layer_files import bake
from model_files import make_folder, weights

from builder.errors import DiskError, IntegrityError, ModelError
from builder.host import file_locks
from builder.host.concurrency import Progress, map_with_progress
from builder.model.images import EPOCH
from builder.model.model_files import LockedModel, ModelFile
from builder.model.recipes import Model
from builder.models import model_store
from builder.models.fetch import fetch_model
from builder.models.model_lock import lock_model
from builder.remote import download as remote_download
from builder.remote.download import PartialFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = make_folder(tmp_path / "tiny")
    make_folder(folder / "sub", model__safetensors=weights({"x": ("U8", [7])}))
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def lock(folder: Path, models: Path) -> LockedModel:
    return lock_model(Model(name="tiny", source="./tiny"), folder.parent, make_session(models))


def fetch(locked: LockedModel, folder: Path, models: Path) -> None:
    fetch_model(locked, folder.parent, make_session(models))


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time and content of everything below a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        state = path.stat()
        found[str(path.relative_to(root))] = (
            state.st_mode,
            state.st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
    return found


def test_every_content_is_stored_once(folder: Path, models: Path) -> None:
    locked = lock(folder, models)
    fetch(locked, folder, models)
    blobs = [path for path in (models / "sha256").rglob("*") if path.is_file()]
    assert sorted(path.name for path in blobs) == sorted({file.sha256 for file in locked.files})
    assert len(blobs) == 3 < len(locked.files)
    for path in blobs:
        assert path.parent.name == path.name[:2]
        assert path.stat().st_mode & 0o777 == 0o644


def test_the_users_files_are_left_alone(folder: Path, models: Path, tmp_path: Path) -> None:
    (folder / "config.json").chmod(0o600)
    before = tree(folder)
    locked = lock(folder, models)
    fetch(locked, folder, models)
    bake(locked, models, tmp_path / "layer")
    assert tree(folder) == before
    assert {path.stat().st_nlink for path in folder.rglob("*") if path.is_file()} == {1}


def test_nothing_is_read_when_all_is_there(folder: Path, models: Path) -> None:
    locked = lock(folder, models)
    fetch(locked, folder, models)
    shutil.rmtree(folder)
    fetch(locked, folder, models)


def test_a_blob_that_a_crash_cut_short_is_replaced(folder: Path, models: Path) -> None:
    locked = lock(folder, models)
    fetch(locked, folder, models)
    file = locked.files[-1]
    model_store.blob(models, file.sha256).write_bytes(b"")
    fetch(locked, folder, models)
    assert model_store.blob(models, file.sha256).stat().st_size == file.size


def test_a_file_that_changed_since_it_was_locked(folder: Path, models: Path) -> None:
    locked = lock(folder, models)
    path = folder / "model.safetensors"
    path.write_bytes(weights()[:-1] + b"x")
    with pytest.raises(IntegrityError) as caught:
        fetch(locked, folder, models)
    file = next(file for file in locked.files if file.path == "model.safetensors")
    got = model_store.digest_of(path.open("rb"), lambda _: None).hexdigest()
    assert caught.value.message == (
        f"model.safetensors of model tiny is not the locked file: "
        f"sha256 {got} ({file.size} bytes), expected {file.sha256} ({file.size} bytes)"
    )
    assert caught.value.where == str(path)
    assert caught.value.hint == (
        "put the locked file back, or, if the change is intended, "
        "run `jbuild lock RECIPE` (or `jbuild models lock RECIPE`)"
    )
    assert not model_store.has(models, file)
    assert not (models / "partial" / file.sha256).exists()


def test_a_file_that_is_gone(folder: Path, models: Path) -> None:
    locked = lock(folder, models)
    (folder / "tokenizer.json").unlink()
    (folder / "sub" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="model tiny: a file cannot be read: No such file or directory"):
        fetch(replace(locked, files=locked.files[-1:]), folder, models)


def test_a_disk_that_fills_up(folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = lock(folder, models)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PartialFile, "copy_from", full)
        with pytest.raises(DiskError) as caught:
            fetch(locked, folder, models)
    assert caught.value.message == "the disk is full"
    fetch(locked, folder, models)


def test_shared_blocks_where_the_file_system_can(folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clone(source: Any, copy: Any) -> bool:
        copy.write(Path(source.name).read_bytes())
        copy.seek(0)
        return True

    locked = lock(folder, models)
    monkeypatch.setattr(remote_download, "_clone", clone)
    fetch(locked, folder, models)
    assert all(model_store.has(models, file) for file in locked.files)


def test_one_file_is_gathered_by_one_at_a_time(models: Path) -> None:
    inside, most, mutex = 0, 0, threading.Lock()

    def work(_: str, progress: Progress) -> None:
        nonlocal inside, most
        with model_store.partial(models, "key", progress.token.check):
            with mutex:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with mutex:
                inside -= 1

    map_with_progress(work, ["a", "b", "c", "d"], lambda _: None)
    assert most == 1


def test_waiting_for_another_ends_with_ctrl_c(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_locks, "_LOCK_POLL_S", 0.01)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt

    with (
        model_store.partial(models, "key", lambda: None),
        pytest.raises(KeyboardInterrupt),
        model_store.partial(models, "key", look),
    ):
        pytest.fail("held twice")


def test_bakes(folder: Path, models: Path, tmp_path: Path) -> None:
    locked = lock(folder, models)
    fetch(locked, folder, models)
    layer = tmp_path / "layer"
    old = os.umask(0o077)
    try:
        bake(locked, models, layer)
    finally:
        os.umask(old)
    found = tree(layer)
    assert {path for path, (_, _, data) in found.items() if data} == {
        f"models/tiny/{file.path}" for file in locked.files
    }
    assert {(mode & 0o7777, when) for mode, when, _ in found.values()} == {
        (0o644, EPOCH * 10**9),
        (0o755, EPOCH * 10**9),
    }
    assert layer.stat().st_mtime == EPOCH
    sample = layer / "models" / "tiny" / "config.json"
    assert sample.samefile(model_store.blob(models, locked.files[0].sha256)), "no second copy on the disk"


def test_bakes_the_same_again_and_elsewhere(folder: Path, models: Path, tmp_path: Path) -> None:
    locked = lock(folder, models)
    fetch(locked, folder, models)
    fetch(locked, folder, tmp_path / "other" / "models")
    bake(locked, models, tmp_path / "one")
    bake(locked, tmp_path / "other" / "models", tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_copies_where_it_cannot_link(
    folder: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    locked = lock(folder, models)
    fetch(locked, folder, models)
    bake(locked, models, tmp_path / "linked")

    def no_link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_link)
    bake(locked, models, tmp_path / "copied")
    assert tree(tmp_path / "copied") == tree(tmp_path / "linked")


def test_a_full_disk_while_baking(folder: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = lock(folder, models)
    fetch(locked, folder, models)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        bake(locked, models, tmp_path / "layer")


def test_baking_what_was_not_fetched(models: Path, tmp_path: Path) -> None:
    file = ModelFile(path="config.json", sha256="ab" * 32, size=2)
    locked = LockedModel(name="tiny", source="./tiny", origin="folder", files=(file,))
    with pytest.raises(ModelError) as caught:
        bake(locked, models, tmp_path / "layer")
    assert caught.value.message == "config.json of model tiny is not in the cache"
    assert caught.value.hint == "run it again with `--from render`, which fetches what is missing"

"""Models in folders: locked by content, with every bad folder refused in words that help."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import make_folder, weights

from builder.errors import DiskError, JbuildError, ModelError
from builder.host.config import Config, ModelMirror
from builder.model.recipes import Model
from builder.models import model_store
from builder.models.fetch import fetch_model
from builder.models.model_lock import lock_model
from builder.models.model_state import quick_state
from builder.remote.download import PartialFile

if TYPE_CHECKING:
    from builder.model.model_files import LockedModel

COPY = "`cp -rL FOLDER COPY` makes a folder with files instead of links: name that one"
MOVE = "move it out of the model's folder"


def settle() -> None:
    """Wait until the times of files that were just written tell a later change."""
    time.sleep(0.03)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "recipes" / "tiny")


def lock(folder: Path, **values: Any) -> LockedModel:
    model = Model(**{"name": "tiny", "source": "./tiny", **values})
    return lock_model(model, folder.parent, make_session(folder.parent.parent / "models"))


def refused(folder: Path, **values: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        lock(folder, **values)
    assert caught.value.hint
    assert caught.value.where
    caught.value.where.encode()
    caught.value.message.encode()
    return caught.value


def test_locks_every_file_by_content(folder: Path) -> None:
    locked = lock(folder, licence="MIT")
    assert [file.path for file in locked.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    for file in locked.files:
        data = (folder / file.path).read_bytes()
        assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (locked.origin, locked.revision, locked.licence, locked.stand_in) == ("folder", None, "MIT", None)


def test_relative_absolute_and_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    files = lock(folder).files
    for source in (str(folder), "~/tiny", "tiny", "../recipes/tiny"):
        assert lock(folder, source=source).files == files
    monkeypatch.chdir(folder.parent)
    found = lock_model(Model(name="tiny", source="tiny"), Path(), make_session(folder.parent / "models"))
    assert found.files == files


def test_a_second_run_reads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle()
    first = lock(folder)
    monkeypatch.setattr(model_store, "digest_of", lambda *_: pytest.fail("hashed again"))
    assert lock(folder) == first


@pytest.mark.parametrize("change", ["content", "replaced", "backdated"])
def test_a_change_is_noticed(folder: Path, change: str) -> None:
    settle()
    before, path = lock(folder), folder / "model.safetensors"
    state = quick_state(Model(name="tiny", source=str(folder)), folder, Config())
    stamp, data = path.stat(), path.read_bytes()
    settle()
    if change == "replaced":
        path.unlink()
    path.write_bytes(data[:-1] + b"x")
    if change == "backdated":
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    else:
        assert quick_state(Model(name="tiny", source=str(folder)), folder, Config()) != state
    after = lock(folder)
    assert after != before
    assert after.files[1].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_was_just_written_is_not_remembered(folder: Path) -> None:
    path = folder / "tokenizer.json"
    for number in range(5):
        path.write_bytes(b"%d" % number)
        assert lock(folder).files[2].sha256 == hashlib.sha256(b"%d" % number).hexdigest()


def test_a_damaged_memory_is_as_good_as_none(folder: Path) -> None:
    settle()
    first = lock(folder)
    for path in (folder.parent.parent / "models" / "known").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff")
    assert lock(folder) == first


def test_links_inside_the_folder_are_files(folder: Path) -> None:
    (folder / "blobs").mkdir()
    (folder / "model.safetensors").rename(folder / "blobs" / "abc")
    (folder / "model.safetensors").symlink_to("blobs/abc")
    assert [file.path for file in lock(folder).files] == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_folder_behind_a_link_is_the_folder(folder: Path) -> None:
    (folder.parent / "other").symlink_to(folder)
    assert lock(folder, source="./other").files == lock(folder).files


def test_links_to_files_outside(folder: Path) -> None:
    outside = folder.parent / "outside.txt"
    outside.write_text("secret")
    (folder / "merges.txt").symlink_to(outside)
    error = refused(folder)
    assert error.message == "model tiny: merges.txt is a link to a file outside the folder"
    assert error.where == str(folder)
    assert error.hint == COPY


def test_links_that_only_look_as_if_inside(folder: Path) -> None:
    make_folder(folder.parent / "tiny-other")
    (folder / "x.txt").symlink_to("../tiny-other/config.json")
    assert refused(folder).message == "model tiny: x.txt is a link to a file outside the folder"


@pytest.mark.parametrize(
    ("target", "flaw"),
    [("gone", "is a link to nothing"), ("loop", "is a link to nothing"), (".", "is a link to a folder"),
     ("..", "is a link to a file outside the folder"), ("/dev/zero", "is a link to a file outside the folder")],
)  # fmt: skip
def test_other_links(folder: Path, target: str, flaw: str) -> None:
    (folder / "loop").symlink_to(target)
    assert refused(folder).message == f"model tiny: loop {flaw}"


def test_special_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    error = refused(folder)
    assert (error.message, error.hint) == ("model tiny: pipe.json is a pipe, not a file", MOVE)
    (folder / "pipe.json").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "s.json"))
    assert refused(folder).message == "model tiny: s.json is a socket, not a file"


@pytest.mark.parametrize("name", [b"a\nb.json", b"\xff.json", b"a\x1b[2J.json", b"a\\b.json"])
def test_names_that_cannot_be_shown(folder: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"{}")
    error = refused(folder)
    assert error.message.isprintable()
    assert any(flaw in error.message for flaw in ("control characters, or one that is not UTF-8", "has a backslash"))
    assert error.hint == "rename it, or move it out of the model's folder"


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_is_locked_or_refused(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "recipes" / "tiny")
    path = folder / f"{name}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    except (OSError, ValueError):  # no such name on this file system
        return
    try:
        paths = [file.path for file in lock(folder).files]
        assert all((folder / path).resolve().is_relative_to(folder.resolve()) for path in paths)
    except ModelError as error:
        error.message.encode()
    finally:
        path.unlink()


def test_hidden_folders_are_passed_over(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "bad\n").symlink_to("/etc")
    assert len(lock(folder).files) == 3


def test_no_folder(folder: Path) -> None:
    error = refused(folder, source="./tinny")
    assert error.message == "model tiny: the folder does not exist"
    assert error.where == str(folder.parent / "tinny")
    assert error.hint == "correct `source` in the recipe: it is relative to the recipe's folder"
    assert refused(folder, source="tiny/config.json").message == "model tiny: the folder is not a folder"


@pytest.mark.parametrize("source", ["s3://bucket/x", "hf://org/name", "hf://org/../x@main", "hf://org/name@../x"])
def test_no_source(folder: Path, source: str) -> None:
    error = refused(folder, source=source)
    assert error.message == "not a valid source of a model"
    assert error.hint == "write hf://organisation/name@revision, oci://host/name:tag, or the path of a folder"


@pytest.mark.parametrize("source", ["oci://registry.example.com/tiny", "oci://org/tiny:1", "oci://r.io/Tiny:1"])
def test_no_name_in_a_registry(folder: Path, source: str) -> None:
    error = refused(folder, source=source)
    assert error.message == "not the name of a model in a registry"
    assert error.hint == "write oci://host/name:tag, or oci://host/name@sha256:…"


def test_a_home_of_nobody(folder: Path) -> None:
    assert refused(folder, source="~no-such-user/x").hint == "write the folder's full path"


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    error = refused(folder)
    assert error.message == "model tiny has no config.json"
    assert error.where == str(folder)
    assert error.hint is not None
    assert error.hint.startswith("name the folder with config.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "config.json is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"\xff\xfe\xff", "config.json is not JSON: it cannot be decoded"),
        (b"[" * 100_000, "config.json is not JSON: it cannot be decoded"),
        (b"[]", "config.json is not a JSON object"),
    ],
)
def test_a_bad_config(folder: Path, data: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(data)
    error = refused(folder)
    assert error.message == f"model tiny: {message}"
    assert error.hint == "copy or download the model again"


def test_truncated_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(weights()[:-10])
    error = refused(folder)
    assert error.message == "model tiny: model.safetensors is truncated: its tensors take 64 bytes, 54 are there"
    assert (error.where, error.hint) == (str(path), "copy or download the model again")


def index(weight_map: object) -> bytes:
    return json.dumps({"weight_map": weight_map}).encode()


def test_a_missing_shard(folder: Path) -> None:
    shards = {"a": "model.safetensors", "b": "model-2.safetensors", "c": "../../etc/passwd"}
    (folder / "model.safetensors.index.json").write_bytes(index(shards))
    error = refused(folder)
    assert error.message == (
        "model tiny: shard '../../etc/passwd' and 1 more named in model.safetensors.index.json is missing"
    )
    (folder / "model.safetensors.index.json").write_bytes(index({"b": "model-2.safetensors"}))
    assert refused(folder).message == (
        "model tiny: shard 'model-2.safetensors' named in model.safetensors.index.json is missing"
    )
    assert refused(folder).hint == ("copy the missing files too, or extend `files` in the recipe if it excludes them")


@pytest.mark.parametrize("broken", [None, [], {"a": 1}, {"a": None}])
def test_a_broken_index(folder: Path, broken: object) -> None:
    (folder / "model.safetensors.index.json").write_bytes(index(broken))
    assert refused(folder).message == "model tiny: model.safetensors.index.json has no `weight_map` of file names"


def test_an_index_in_a_folder_below(folder: Path) -> None:
    below = make_folder(folder / "draft", model__safetensors__index__json=index({"w": "model.safetensors"}))
    assert len(lock(folder).files) == 7
    (below / "model.safetensors").unlink()
    assert "named in draft/model.safetensors.index.json is missing" in refused(folder).message


def test_a_folder_that_cannot_be_looked_at(folder: Path) -> None:
    error = refused(folder, source="x" * 300)
    assert error.message == "model tiny: a file cannot be read: File name too long"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(folder: Path) -> None:
    (folder / "tokenizer.json").chmod(0)
    assert refused(folder).message == "model tiny: a file cannot be read: Permission denied"


def test_a_file_that_changes_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = model_store.digest_of

    def slow(file: Any, on_bytes: Any) -> Any:
        found = usual(file, on_bytes)
        with Path(file.name).open("ab") as more:
            more.write(b" ")
        return found

    monkeypatch.setattr(model_store, "digest_of", slow)
    error = refused(folder)
    assert " changed while it was read" in error.message
    assert error.hint == "wait until the file is complete, then run it again"


def take(folder: Path) -> LockedModel:
    """Lock a model that will be fetched next."""
    model, models = Model(name="tiny", source="./tiny"), folder.parent.parent / "models"
    return lock_model(model, folder.parent, make_session(models), fetching=True)


def test_files_that_will_be_fetched_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle()
    models = folder.parent.parent / "models"
    locked = take(folder)
    assert {file.path: file.sha256 for file in locked.files} == {
        file.path: hashlib.sha256((folder / file.path).read_bytes()).hexdigest() for file in locked.files
    }
    for file in locked.files:
        assert model_store.blob(models, file.sha256).read_bytes() == (folder / file.path).read_bytes()
        assert model_store.blob(models, file.sha256).stat().st_ino != (folder / file.path).stat().st_ino
    monkeypatch.setattr(PartialFile, "copy_from", None)
    monkeypatch.setattr(model_store, "digest_of", None)
    assert take(folder) == locked
    fetch_model(locked, folder.parent, make_session(models))
    assert [path for path in (models / "partial").iterdir() if path.suffix != ".lock"] == []


def test_a_lock_alone_takes_nothing(folder: Path) -> None:
    lock(folder)
    assert not (folder.parent.parent / "models" / "sha256").exists()


def test_a_file_that_changes_while_it_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = PartialFile.copy_from

    def slow(content: PartialFile, file: Any) -> None:
        usual(content, file)
        with Path(file.name).open("ab") as more:
            more.write(b" ")

    monkeypatch.setattr(PartialFile, "copy_from", slow)
    with pytest.raises(ModelError, match="changed while it was read"):
        take(folder)
    models = folder.parent.parent / "models"
    assert not (models / "sha256").exists()
    assert [path for path in (models / "partial").iterdir() if path.suffix != ".lock"] == []


def test_cells_that_take_the_same_files_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle()
    taken: list[str] = []
    usual = PartialFile.copy_from

    def counted(content: PartialFile, file: Any) -> None:
        taken.append(file.name)
        time.sleep(0.05)
        usual(content, file)

    monkeypatch.setattr(PartialFile, "copy_from", counted)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(take, [folder] * 3))
    assert made[0] == made[1] == made[2]
    assert len(taken) == len(set(taken)) == len(made[0].files)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_store, "remember", full)
    with pytest.raises(DiskError, match="the disk is full"):
        lock(folder)


def test_warnings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock(folder)
    assert capsys.readouterr().err == ""
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").write_bytes(b'{"auto_map": {"AutoModel": "modeling.X"}}')
    lock(folder)
    assert capsys.readouterr().err == (
        "warning: model tiny has no tokenizer files: the server cannot answer with text\n"
        "warning: model tiny refers to its own code (`auto_map` in config.json), which is not baked in: "
        'if the server needs it, read the code, then list `files` with "*.py"\n'
    )


def test_quick_states(folder: Path, tmp_path: Path) -> None:
    hub = Model(name="tiny", source="hf://org/tiny@main")
    assert quick_state(hub, tmp_path, Config()) == ("hub", hub.source)
    artifact = Model(name="tiny", source="oci://registry.example.com/tiny:1")
    assert quick_state(artifact, tmp_path, Config()) == ("registry", artifact.source)
    mirror = ModelMirror(source="hf://org/tiny", folder=folder, stand_in="why")
    mirrored = quick_state(hub, tmp_path, Config(model_mirrors=(mirror,)))
    assert mirrored[:2] == ("folder", "why")
    own = Model(name="tiny", source=str(folder))
    assert quick_state(own, tmp_path, Config())[2:] == mirrored[2:]
    (folder / "README.md").write_text("other words")
    assert quick_state(own, tmp_path, Config())[2:] == mirrored[2:], "not part of the model"
    (folder / "config.json").unlink()
    assert quick_state(own, tmp_path, Config()) == ("unusable", "model tiny has no config.json")


def test_the_hub_client_is_not_loaded_for_folders(folder: Path) -> None:
    code = """
import pathlib, sys
from builder.host import config, console, paths, session
from builder.models.model_lock import lock_model
from builder.model.recipes import Model
folder = pathlib.Path(sys.argv[1])
workspace = paths.Workspace(project=folder, cache=folder)
own = session.Session(workspace=workspace, config=config.Config(), console=console.Console())
lock_model(Model(name="t", source="./tiny"), folder, own)
sys.exit("huggingface_hub" in sys.modules)
"""
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, str(folder.parent)]) == 0


def test_errors_have_the_models_exit_code(folder: Path) -> None:
    (folder / "config.json").unlink()
    error: JbuildError = refused(folder)
    assert error.exit_code == 9

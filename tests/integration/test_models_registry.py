"""Models in a real registry on loopback, pushed by ORAS where it is installed, with faults in between."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_session
from hub_stand_in import small_model, weights
from layer_files import bake
from servers import PASSWORD, USER, Fault, Registry, running_front, running_registry

from builder.errors import DiskError, IntegrityError, JbuildError, ModelError, RegistryError
from builder.host.config import Config, RegistryMirror
from builder.model.recipes import Model
from builder.models import model_store
from builder.models.fetch import fetch_model
from builder.models.model_lock import lock_model
from builder.remote import http
from builder.remote.artifact import TITLE
from builder.remote.download import BLOCK
from builder.remote.registry.registry_client import OCI_INDEX, OCI_MANIFEST, connect
from builder.remote.registry.registry_failures import RegistryUnreachableError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.model.model_files import LockedModel

REPOSITORY = "models/tiny"
SHARD = "model-00002-of-00002.safetensors"
BIG = 10_000_000
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 11421896\n" % (b"4" * 64)
TAKEN = (
    "LICENSE",
    "chat_template.jinja",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No log-in or proxy of the user's; no long waits."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "JBUILD_REGISTRY_USER", "JBUILD_REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    quick = functools.partial(http.Retry, first_wait_s=0.01)
    monkeypatch.setattr("builder.remote.registry.transport.Retry", quick)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def push(host: str, files: dict[str, bytes], tag: str, folder: Path, **changes: Any) -> str:
    """Push files as ORAS does, without ORAS, and return the manifest's digest."""
    client = connect(host, Config())
    layers = []
    folder.mkdir(exist_ok=True)
    for title, content in {**files, "{}": b"{}"}.items():
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (folder / "blob").write_bytes(content)
        client.send_blob(REPOSITORY, BytesBlob((folder / "blob").read_bytes()))
        entry = {"mediaType": "application/octet-stream", "digest": digest, "size": len(content)}
        layers.append({**entry, "annotations": {TITLE: title}})
    empty = {**layers.pop(), "mediaType": "application/vnd.oci.empty.v1+json"}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": empty, "layers": layers, **changes}
    content = json.dumps(manifest).encode()
    client.put_manifest(REPOSITORY, tag, content, OCI_MANIFEST)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def model_at(host: str, tag: str) -> Model:
    return Model(name="tiny", source=f"oci://{host}/{REPOSITORY}:{tag}")


def lock(model: Model, models: Path, **config: Any) -> LockedModel:
    return lock_model(model, models, make_session(models, **config))


def fetch(locked: LockedModel, models: Path) -> None:
    fetch_model(locked, models, make_session(models))


def left_over(models: Path) -> list[str]:
    return [p.name for p in (models / "partial").iterdir() if not p.name.endswith(".lock")]


def has(models: Path, content: bytes) -> bool:
    return model_store.blob(models, hashlib.sha256(content).hexdigest()).exists()


def blob_of(content: bytes) -> str:
    return f"GET /v2/{REPOSITORY}/blobs/sha256:{hashlib.sha256(content).hexdigest()}"


def test_locks_fetches_and_bakes(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = small_model()
    annotations = {"org.opencontainers.image.licenses": "Apache-2.0"}
    digest = push(registry.host, files, "good", tmp_path / "push", annotations=annotations)
    model = model_at(registry.host, "good")
    locked = lock(model, models)
    assert (locked.origin, locked.revision, locked.licence, locked.stand_in) == ("registry", digest, "Apache-2.0", None)
    assert tuple(file.path for file in locked.files) == TAKEN
    for file in locked.files:
        assert (file.size, file.sha256) == (len(files[file.path]), hashlib.sha256(files[file.path]).hexdigest())
    assert not model_store.blob(models, hashlib.sha256(files[SHARD]).hexdigest()).exists(), (
        "weights are not needed for a lock"
    )
    fetch(locked, models)
    assert left_over(models) == []
    bake(locked, models, tmp_path / "layer")
    baked = tmp_path / "layer" / "models" / "tiny"
    assert {p.name: p.read_bytes() for p in baked.iterdir()} == {path: files[path] for path in TAKEN}
    by_digest = replace(model, source=f"oci://{registry.host}/{REPOSITORY}@{digest}")
    assert lock(by_digest, models).files == locked.files
    assert lock(replace(model, licence="MIT"), models).licence == "MIT"


def test_what_oras_pushes(registry: Registry, models: Path, tmp_path: Path) -> None:
    program = shutil.which("oras")
    if not program:
        pytest.skip("oras is not installed")
    files = {**small_model(), "original/params.json": b"{}", "1_Pooling/config.json": b"{}"}
    folder = tmp_path / "model"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    target = f"{registry.host}/models/oras:1"
    subprocess.run(
        [program, "push", "--plain-http", "--disable-path-validation", target, *files],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    locked = lock(Model(name="tiny", source=f"oci://{target}"), models)
    assert tuple(file.path for file in locked.files) == ("1_Pooling/config.json", *TAKEN)
    fetch(locked, models)
    for file in locked.files:
        assert model_store.blob(models, file.sha256).read_bytes() == files[file.path]


@pytest.mark.parametrize(
    ("path", "data", "flaw"),
    [
        ("tokenizer.json", POINTER, "is a Git LFS pointer to a file of 11421896 bytes"),
        (SHARD, POINTER, "is a Git LFS pointer to a file of 11421896 bytes"),
        ("tokenizer.json", b"<html>", "is an HTML page"),
        ("tokenizer.json", b"{", "is not JSON"),
    ],
)
def test_files_with_other_content(
    registry: Registry, models: Path, tmp_path: Path, path: str, data: bytes, flaw: str
) -> None:
    push(registry.host, {**small_model(), path: data}, "other", tmp_path / "push")
    with pytest.raises(ModelError, match=f"model tiny: {path} {flaw}"):
        lock(model_at(registry.host, "other"), models)


def test_a_folder_that_oras_packed_is_refused(registry: Registry, models: Path, tmp_path: Path) -> None:
    program = shutil.which("oras")
    if not program:
        pytest.skip("oras is not installed")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    target = f"{registry.host}/models/packed:1"
    subprocess.run(
        [program, "push", "--plain-http", target, "model"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    with pytest.raises(ModelError, match="model is a packed folder") as caught:
        lock(Model(name="tiny", source=f"oci://{target}"), models)
    assert "oras push HOST/NAME:TAG" in (caught.value.hint or "")


def test_a_tag_that_moves_does_not_change_what_is_locked(registry: Registry, models: Path, tmp_path: Path) -> None:
    push(registry.host, small_model(), "moving", tmp_path / "push")
    locked = lock(model_at(registry.host, "moving"), models)
    push(registry.host, {**small_model(), "config.json": b'{"a": 1}'}, "moving", tmp_path / "push")
    fetch(locked, models)
    assert lock(model_at(registry.host, "moving"), models).revision != locked.revision


def test_a_line_that_is_cut_goes_on_where_it_was(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = {**small_model(), SHARD: weights(BIG)}
    push(registry.host, files, "big", tmp_path / "push")
    cut = Fault(match=blob_of(files[SHARD]), kind="cut-answer", after=int(BIG * 0.9))
    with running_front(registry, cut) as front:
        locked = lock(model_at(front.host, "big"), models)
        fetch(locked, models)
        assert front.asked(blob_of(files[SHARD])) == 2
    assert left_over(models) == []


def test_the_next_run_goes_on_where_one_ended(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = {**small_model(), SHARD: weights(BIG, b"n")}
    push(registry.host, files, "next", tmp_path / "push")
    shard = blob_of(files[SHARD])
    faults = (
        Fault(match=shard, kind="cut-answer", after=int(BIG * 0.9)),
        Fault(match=shard, kind="answer", status=503, times=None),
    )
    with running_front(registry, *faults) as front:
        locked = lock(model_at(front.host, "next"), models)
        with pytest.raises(RegistryUnreachableError):
            fetch(locked, models)
        kept = models / "partial" / hashlib.sha256(files[SHARD]).hexdigest()
        assert BIG * 0.9 - BLOCK <= kept.stat().st_size < BIG
        front.faults.clear()
        fetch(locked, models)
    assert left_over(models) == []


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 200_500, b"x" * 300_000])
def test_a_damaged_beginning_is_fetched_again(registry: Registry, models: Path, tmp_path: Path, left: bytes) -> None:
    files = small_model()
    push(registry.host, files, "damaged", tmp_path / "push")
    locked = lock(model_at(registry.host, "damaged"), models)
    (models / "partial" / hashlib.sha256(files[SHARD]).hexdigest()).write_bytes(left)
    fetch(locked, models)
    assert left_over(models) == []


def test_wrong_bytes(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = small_model()
    push(registry.host, files, "wrong", tmp_path / "push")
    wrong = Fault(match=blob_of(files[SHARD]), kind="swap", body=b"y" * len(files[SHARD]), times=None)
    with running_front(registry, wrong) as front:
        locked = lock(model_at(front.host, "wrong"), models)
        with pytest.raises(IntegrityError) as caught:
            fetch(locked, models)
        assert caught.value.exit_code == 6
        front.faults[:] = [replace(wrong, body=b"y" * 5_000_000)]
        with pytest.raises(IntegrityError, match="bytes or more, expected"):
            fetch(locked, models)
    assert hashlib.sha256(files[SHARD]).hexdigest() not in left_over(models)
    assert not has(models, files[SHARD])


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, RegistryError, "docker login"),
        (403, RegistryError, "may not pull"),
        (404, ModelError, "correct `source` in the recipe, or push the files"),
        (429, RegistryError, "limits requests"),
        (500, RegistryError, "registry's log, then run the same command again"),
        (503, RegistryUnreachableError, "down or starting"),
    ],
)
def test_refusals(
    registry: Registry, models: Path, tmp_path: Path, status: int, kind: type[JbuildError], hint: str
) -> None:
    push(registry.host, small_model(), "refused", tmp_path / "push")
    headers = {"Retry-After": "0"} if status == 429 else {}
    refusal = Fault(match="manifests", kind="answer", status=status, headers=headers, times=None)
    with running_front(registry, refusal) as front:
        with pytest.raises(kind) as caught:
            lock(model_at(front.host, "refused"), models)
        assert hint in (caught.value.hint or "")
        assert "sent again" not in (caught.value.hint or "")
        assert front.asked("manifests") == (1 if status in (401, 403, 404) else 5)
    assert not (models / "partial").exists()


def test_a_model_that_is_not_there(registry: Registry, models: Path) -> None:
    with pytest.raises(ModelError) as caught:
        lock(model_at(registry.host, "nowhere"), models)
    assert caught.value.exit_code == 9
    name = f"{registry.host}/{REPOSITORY}:nowhere"
    assert caught.value.message.startswith(f"the registry {registry.host} does not have the model oci://{name}: ")
    assert caught.value.where == name
    assert f"`cd FOLDER && oras push {name} $(find . -type f)`" in (caught.value.hint or "")


def test_a_model_that_is_not_where_a_mirror_rule_looks(registry: Registry, models: Path) -> None:
    rule = RegistryMirror(prefix="models.example.com/llm", mirror=f"{registry.host}/models")
    model = Model(name="tiny", source="oci://models.example.com/llm/tiny:1")
    with pytest.raises(ModelError, match=r"does not have the model oci://models\.example\.com/llm/tiny:1") as caught:
        lock(model, models, registry_mirrors=(rule,))
    assert caught.value.where == f"{registry.host}/models/tiny:1, from a mirror rule or the lock"


def test_a_file_that_is_gone_from_the_registry(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = small_model()
    push(registry.host, files, "gone", tmp_path / "push")
    gone = Fault(match=blob_of(files[SHARD]), kind="answer", status=404, times=None)
    with running_front(registry, gone) as front:
        locked = lock(model_at(front.host, "gone"), models)
        with pytest.raises(ModelError, match=f"does not have the file {SHARD} of oci://"):
            fetch(locked, models)


@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_registry_in_trouble_is_asked_again(registry: Registry, models: Path, tmp_path: Path, status: int) -> None:
    push(registry.host, small_model(), "trouble", tmp_path / "push")
    faults = [Fault(match=what, kind="answer", status=status, times=2) for what in ("manifests", "blobs")]
    with running_front(registry, *faults) as front:
        fetch(lock(model_at(front.host, "trouble"), models), models)
    assert left_over(models) == []


def test_a_registry_that_wants_a_log_in(
    models: Path, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(registry.host, small_model(), "secret", tmp_path / "push")
    with running_front(registry, tokens=True) as front:
        with pytest.raises(RegistryError) as caught:
            lock(model_at(front.host, "secret"), models)
        assert "docker login" in (caught.value.hint or "")
        monkeypatch.setenv("JBUILD_REGISTRY_USER", USER)
        monkeypatch.setenv("JBUILD_REGISTRY_PASSWORD", PASSWORD)
        own = (f"{front.host}/models",)
        locked = lock(model_at(front.host, "secret"), models, registries=own)
        fetch_model(locked, models, make_session(models, registries=own))
    assert left_over(models) == []


def test_nobody_answers(models: Path) -> None:
    with pytest.raises(RegistryUnreachableError):
        lock(model_at("127.0.0.1:9", "x"), models)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": 1}]}, "one of its layers has no"),
        ({"layers": [{"digest": "md5:1", "size": 1, "annotations": {TITLE: "a"}}]}, "has no sha256 or no size"),
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": -1, "annotations": {TITLE: "a"}}]}, "has no sha256"),
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": 1, "annotations": {TITLE: "../a"}}]}, "is not a plain"),
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": 1, "annotations": {TITLE: "/etc/a"}}]}, "is not a plain"),
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": 1, "annotations": {TITLE: "a\nb"}}]}, "control char"),
        ({"layers": [{"digest": "sha256:" + "0" * 64, "size": 1, "annotations": {TITLE: "a"}}] * 2}, "called a"),
        ({"layers": 5}, "cannot be read"),
        ({"layers": [7]}, "cannot be read"),
        ({"layers": []}, "has no config.json"),
    ],
)
def test_what_is_no_model(registry: Registry, models: Path, changes: dict[str, Any], message: str) -> None:
    """The registry itself refuses such manifests: a front sends them in its place."""
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, **changes}).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest}
    odd = Fault(match="manifests", kind="answer", status=200, headers=headers, body=body, times=None)
    with running_front(registry, odd) as front, pytest.raises(ModelError, match=message) as caught:
        lock(model_at(front.host, "odd"), models)
    assert caught.value.exit_code == 9


def test_an_image_is_no_model(registry: Registry, models: Path, tmp_path: Path) -> None:
    digest = push(registry.host, small_model(), "image", tmp_path / "push")
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 10}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    connect(registry.host, Config()).put_manifest(REPOSITORY, "index", index, OCI_INDEX)
    with pytest.raises(ModelError, match="it is an index of several images"):
        lock(model_at(registry.host, "index"), models)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({SHARD: None}, rf"shard '{SHARD}' named in model.safetensors.index.json is missing"),
        ({"model.safetensors.index.json": b"{"}, r"model.safetensors.index.json is not JSON"),
        ({"config.json": b"[]"}, r"config.json is not a JSON object"),
    ],
)
def test_a_broken_model(
    registry: Registry, models: Path, tmp_path: Path, change: dict[str, bytes | None], message: str
) -> None:
    files = {path: content for path, content in {**small_model(), **change}.items() if content is not None}
    push(registry.host, files, "broken", tmp_path / "push")
    with pytest.raises(ModelError, match=message):
        lock(model_at(registry.host, "broken"), models)


def test_truncated_weights_never_enter_the_store(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = {**small_model(), SHARD: weights(200_000)[:90_000]}
    push(registry.host, files, "short", tmp_path / "push")
    locked = lock(model_at(registry.host, "short"), models)
    with pytest.raises(ModelError, match=f"{SHARD} is truncated"):
        fetch(locked, models)
    assert not has(models, files[SHARD])


def test_a_mirror(registry: Registry, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(registry.host, small_model(), "mirrored", tmp_path / "push")
    rule = RegistryMirror(
        prefix="models.example.com/team", mirror=f"{registry.host}/models", stand_in="no network here"
    )
    model = Model(name="tiny", source="oci://models.example.com/team/tiny:mirrored")
    locked = lock(model, models, registry_mirrors=(rule,))
    assert (locked.source, locked.stand_in) == (model.source, "no network here")
    assert f"stands in for {model.source}: no network here" in capsys.readouterr().err
    fetch_model(locked, models, make_session(models, registry_mirrors=(rule,)))


def test_a_disk_that_fills_up(
    registry: Registry, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file system of 6 MB, where this user may mount one; what came is kept, and the next run goes on."""
    files = {**small_model(), SHARD: weights(BIG, b"d")}
    push(registry.host, files, "disk", tmp_path / "push")
    models.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(models)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        locked = lock(model_at(registry.host, "disk"), models)
        with pytest.raises(DiskError, match="the disk is full") as caught:
            fetch(locked, models)
        assert "it resumes from here" in (caught.value.hint or "")
        kept = models / "partial" / hashlib.sha256(files[SHARD]).hexdigest()
        assert 0 < kept.stat().st_size < BIG
        subprocess.run(["mount", "-o", "remount,size=60m", str(models)], check=True, capture_output=True)
        fetch(locked, models)
        assert left_over(models) == []
    finally:
        subprocess.run(["umount", str(models)], check=True, capture_output=True)


def _fetch_elsewhere(locked: LockedModel, models: Path, outcome: Any) -> None:
    try:
        fetch(locked, models)
        outcome.put("")
    except JbuildError as error:
        outcome.put(error.message)


def test_two_processes_fetch_each_file_once(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = {**small_model(), SHARD: weights(BIG, b"t")}
    push(registry.host, files, "two", tmp_path / "push")
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    with running_front(registry) as front:
        locked = lock(model_at(front.host, "two"), models)
        both = [context.Process(target=_fetch_elsewhere, args=(locked, models, outcome), daemon=True) for _ in "ab"]
        for process in both:
            process.start()
        assert [outcome.get(timeout=60) for _ in both] == ["", ""]
        for process in both:
            process.join(10)
        assert front.asked(blob_of(files[SHARD])) == 1


def test_a_killed_run_is_gone_on_with(registry: Registry, models: Path, tmp_path: Path) -> None:
    files = {**small_model(), SHARD: weights(BIG, b"k")}
    push(registry.host, files, "killed", tmp_path / "push")
    context = multiprocessing.get_context("spawn")
    shard = blob_of(files[SHARD])
    outcome = context.Queue()
    faults = (
        Fault(match=shard, kind="cut-answer", after=BIG // 2),
        Fault(match=shard, kind="delay", seconds=10),
    )
    with running_front(registry, *faults) as front:
        locked = lock(model_at(front.host, "killed"), models)
        process = context.Process(target=_fetch_elsewhere, args=(locked, models, outcome), daemon=True)
        process.start()
        kept = models / "partial" / hashlib.sha256(files[SHARD]).hexdigest()
        _await(lambda: front.asked(shard) == 2)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(10)
        size = kept.stat().st_size
        assert 0 < size <= BIG // 2
        front.faults.clear()
        fetch(locked, models)
    assert left_over(models) == []


def _await(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)

"""Loading an image of an OCI layout into a real engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from docker.errors import ImageNotFound

from builder.errors import EngineError, IntegrityError
from builder.host.console import Console, Task
from builder.host.engine.docker import Engine
from builder.host.engine.temporary import SMOKE, temporary_tag
from builder.host.owner import own_word
from builder.image.oci import engine_load
from builder.image.oci.engine_load import loaded
from builder.model.images import Descriptor, Image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient


@pytest.fixture
def client(engine: Engine) -> Iterator[DockerClient]:
    client = engine.client()
    yield client
    client.close()


def put(layout: Path, media_type: str, data: bytes) -> Descriptor:
    digest = hashlib.sha256(data).hexdigest()
    folder = layout / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / digest).write_bytes(data)
    return Descriptor(media_type=f"application/vnd.oci.image.{media_type}", digest=f"sha256:{digest}", size=len(data))


def layer(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture(params=["linux/arm64", "linux/amd64"])
def built(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Image, Path]:
    """An image that the engine has never seen, in an OCI layout."""
    return build(tmp_path, request.param)


def build(tmp_path: Path, platform: str, size: int = 32) -> tuple[Image, Path]:
    """Make an image; two of its layers are the same blob."""
    system, architecture = platform.split("/")
    plain = layer(os.urandom(size))
    layers = [put(tmp_path, "layer.v1.tar", plain)] * 2
    layers.append(put(tmp_path, "layer.v1.tar+gzip", gzip.compress(plain)))
    differences = ["sha256:" + hashlib.sha256(plain).hexdigest()] * 3
    rootfs = {"type": "layers", "diff_ids": differences}
    settings = {"os": system, "architecture": architecture, "rootfs": rootfs, "config": {"Cmd": ["/file"]}}
    config = put(tmp_path, "config.v1+json", json.dumps(settings).encode())
    body = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": oci(config),
        "layers": [oci(layer) for layer in layers],
    }
    manifest = put(tmp_path, "manifest.v1+json", json.dumps(body).encode())
    return Image(platform=platform, manifest=manifest, config=config, layers=tuple(layers), labels=()), tmp_path


def oci(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def names(client: DockerClient) -> list[str]:
    # images.list() inspects each image, and other tests remove theirs meanwhile.
    return [name for image in client.api.images() for name in image["RepoTags"] or () if name.startswith(SMOKE)]


def exists(client: DockerClient, name: str) -> bool:
    return bool(client.images.list(name=name))


def test_the_image_is_there_for_the_block_only(built: tuple[Image, Path], engine: Engine, client: DockerClient) -> None:
    image, layout = built
    with loaded(image, layout, engine, Console(quiet=True)) as reference:
        found = client.images.get(reference)
        assert found.id in (image.digest, image.config.digest)
        assert found.attrs["Architecture"] == image.platform.split("/")[1]
        with loaded(image, layout, engine, Console(quiet=True)) as again:
            assert client.images.get(again).id == found.id
        assert exists(client, reference), "who found it there leaves it there"
    assert not exists(client, reference)
    assert reference not in names(client)


def test_an_image_that_its_loader_removes_stays_while_another_uses_it(
    built: tuple[Image, Path], engine: Engine, client: DockerClient
) -> None:
    image, layout = built
    with ExitStack() as later:
        with loaded(image, layout, engine, Console(quiet=True)) as first:
            second = later.enter_context(loaded(image, layout, engine, Console(quiet=True)))
        assert not exists(client, first)
        assert client.images.get(second).id in (image.digest, image.config.digest)
        client.containers.create(second).remove()
    assert not exists(client, second)


def test_an_image_without_a_name_stays_as_it_is(
    built: tuple[Image, Path], engine: Engine, client: DockerClient
) -> None:
    image, layout = built
    other, name = relabelled(image, layout), f"jbuild-test/load:{os.urandom(3).hex()}"
    with loaded(image, layout, engine, Console(quiet=True), keep_as=name):
        pass
    digest = str(client.images.get(name).id)
    with loaded(other, layout, engine, Console(quiet=True)) as newer:
        client.images.get(newer).tag(name)
    try:
        with loaded(image, layout, engine, Console(quiet=True)) as reference:
            assert reference == digest
        assert client.images.get(digest).tags == []
    finally:
        client.api.remove_image(digest)
        client.api.remove_image(name)


def test_an_interrupt_does_not_wait_for_the_files_of_the_image(
    built: tuple[Image, Path],
    engine: Engine,
    client: DockerClient,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient, limits = Engine.client, list[tuple[float, ...]]()

    def noted(own: Engine, *limit: float) -> DockerClient:
        limits.append(limit)
        return patient(own, *limit)

    monkeypatch.setattr(Engine, "client", noted)
    image, layout = built
    with pytest.raises(KeyboardInterrupt), loaded(image, layout, engine, Console(quiet=True)) as name:
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "removing the loaded image from the engine\n"
    assert limits == [(), (engine_load._NAME_GONE_S,)]
    assert not exists(client, name)


def test_the_console_says_when_only_the_engine_works(
    built: tuple[Image, Path], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(Task, "advance", lambda *_: steps.append("sent"))
    monkeypatch.setattr(Task, "note", lambda _, text: steps.append(text))
    with loaded(*built, engine, Console(quiet=True)):
        assert steps[0] == "sent"
        assert steps[-1] == "all is sent, the engine unpacks it"


def test_it_is_kept_when_the_block_succeeds(built: tuple[Image, Path], engine: Engine, client: DockerClient) -> None:
    image, layout = built
    name = "jbuild-test/kept:cell"
    try:
        with pytest.raises(ZeroDivisionError), loaded(image, layout, engine, Console(quiet=True), keep_as=name):
            raise ZeroDivisionError
        assert not exists(client, name)
        with loaded(image, layout, engine, Console(quiet=True), keep_as=name) as reference:
            pass
        assert exists(client, name)
        assert not exists(client, reference)
    finally:
        if exists(client, name):
            client.images.remove(name, force=True)


def test_the_image_that_had_the_name_before_goes(tmp_path: Path, engine: Engine, client: DockerClient) -> None:
    name = "jbuild-test/moved:cell"
    old, new = (build(tmp_path, "linux/amd64")[0] for _ in range(2))
    quiet = Console(quiet=True)
    try:
        for image in (old, new, new):
            with loaded(image, tmp_path, engine, quiet, keep_as=name):
                pass
        assert client.images.get(name).id in (new.digest, new.config.digest)
        with pytest.raises(ImageNotFound):
            client.images.get(old.digest)
    finally:
        client.images.remove(name, force=True)


def test_an_image_with_another_name_stays(tmp_path: Path, engine: Engine, client: DockerClient) -> None:
    name, other = "jbuild-test/moved-2:cell", "jbuild-test/users-own:1"
    old, new = (build(tmp_path, "linux/amd64")[0] for _ in range(2))
    quiet = Console(quiet=True)
    try:
        with loaded(old, tmp_path, engine, quiet, keep_as=name):
            pass
        repository, tag = other.split(":")
        client.api.tag(name, repository, tag)
        with loaded(new, tmp_path, engine, quiet, keep_as=name):
            pass
        assert client.images.get(other).id in (old.digest, old.config.digest)
    finally:
        for each in (name, other):
            client.images.remove(each, force=True)


def test_a_name_that_the_engine_refuses(tmp_path: Path, engine: Engine, client: DockerClient) -> None:
    image, layout = build(tmp_path, "linux/amd64")
    with (
        pytest.raises(EngineError, match=r"could not tag the image: .*invalid") as caught,
        loaded(image, layout, engine, Console(quiet=True), keep_as="jbuild-test/UPPER:case") as reference,
    ):
        pass
    assert caught.value.where == "jbuild-test/UPPER:case"
    assert not exists(client, reference)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_blob_that_is_not_whole(built: tuple[Image, Path], engine: Engine, client: DockerClient, damage: str) -> None:
    image, layout = built
    blob = layout / "blobs" / image.layers[0].digest.replace(":", "/")
    if damage == "missing":
        blob.unlink()
    else:
        blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(IntegrityError), loaded(image, layout, engine, Console(quiet=True)):
        pass
    assert not [name for name in names(client) if image.digest[7:19] in name]


def test_a_blob_with_other_bytes_is_not_taken(built: tuple[Image, Path], engine: Engine, client: DockerClient) -> None:
    image, layout = built
    blob = layout / "blobs" / image.layers[0].digest.replace(":", "/")
    blob.write_bytes(bytes(image.layers[0].size))
    # The second time is no other: nothing of the first is left.
    for _ in range(2):
        refused = pytest.raises(IntegrityError, match="does not match its digest")
        with refused as caught, loaded(image, layout, engine, Console(quiet=True)):
            pass
        assert caught.value.where == str(blob)
        assert not [name for name in names(client) if image.digest[7:19] in name]


def test_layers_that_the_engine_has_are_not_sent_again(
    tmp_path: Path, engine: Engine, client: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not engine.containerd_store:
        pytest.skip("only engines with containerd's store know layers by their blobs")
    image, layout = build(tmp_path, "linux/amd64", size=2_000_000)
    other = relabelled(image, layout)
    sent: list[int] = []
    stream = engine_load.stream

    def counted(*arguments: Any) -> Iterator[bytes]:
        for block in stream(*arguments):
            sent.append(len(block))
            yield block

    monkeypatch.setattr(engine_load, "stream", counted)
    with loaded(image, layout, engine, Console(quiet=True)):
        assert sum(sent) > 4_000_000
        sent.clear()
        with loaded(other, layout, engine, Console(quiet=True)) as reference:
            assert sum(sent) < 100_000
            assert client.images.get(reference).attrs["Config"]["Labels"] == {"of": "the other"}
            container = client.containers.create(reference)
            try:
                assert b"".join(container.get_archive("/file")[0])
            finally:
                container.remove()


def test_an_engine_that_takes_nothing_less_gets_all(
    tmp_path: Path, engine: Engine, client: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, layout = build(tmp_path, "linux/amd64")
    monkeypatch.setattr(engine_load, "_layers_in_use", lambda *_: frozenset(layer.digest for layer in image.layers))
    with loaded(image, layout, engine, Console(quiet=True)) as reference:
        assert client.images.get(reference).id in (image.digest, image.config.digest)


def relabelled(image: Image, layout: Path) -> Image:
    """Return an image of the same layers with another configuration."""
    path = layout / "blobs" / image.config.digest.replace(":", "/")
    settings = json.loads(path.read_bytes())
    settings["config"]["Labels"] = {"of": "the other"}
    config = put(layout, "config.v1+json", json.dumps(settings).encode())
    body = json.loads((layout / "blobs" / image.digest.replace(":", "/")).read_bytes())
    manifest = put(layout, "manifest.v1+json", json.dumps({**body, "config": oci(config)}).encode())
    return replace(image, manifest=manifest, config=config)


@pytest.mark.alone
def test_a_name_that_a_killed_process_left_goes_and_that_of_a_living_one_stays(
    built: tuple[Image, Path], engine: Engine, client: DockerClient
) -> None:
    image, layout = built
    program = "from builder.host.engine import temporary; print(temporary.temporary_tag(temporary.SMOKE, 'dead'))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    with loaded(image, layout, engine, Console(quiet=True)) as reference:
        machine = own_word().partition("-")[0]
        dead, elsewhere = ended.stdout.strip(), temporary_tag(SMOKE, "0").replace(machine, "00000000")
        for name in (dead, elsewhere):
            repository, tag = name.split(":")
            client.api.tag(reference, repository, tag)
        with loaded(image, layout, engine, Console(quiet=True)):
            pass
        try:
            assert exists(client, reference)
            assert exists(client, elsewhere)
            assert not exists(client, dead)
        finally:
            client.api.remove_image(elsewhere)

"""Loading an image of an OCI layout into a real engine."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from builder.console import Console
from builder.engine import Engine, find_engine
from builder.errors import EngineError, IntegrityError
from builder.image.model import Descriptor, Image
from builder.smoke.load import REPOSITORY, loaded
from builder.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient


@pytest.fixture(scope="module")
def engine() -> Engine:
    try:
        return find_engine(Workspace.here())
    except EngineError as error:
        pytest.skip(f"no engine: {error.message}")


@pytest.fixture
def client(engine: Engine) -> Iterator[DockerClient]:
    client = engine.client()
    yield client
    client.close()


def descriptor(data: dict[str, object]) -> Descriptor:
    return Descriptor(media_type=str(data["mediaType"]), digest=str(data["digest"]), size=int(str(data["size"])))


@pytest.fixture(params=["linux/arm64", "linux/amd64"])
def built(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> tuple[Image, Path]:
    """An image of one small file, different in every run, in an OCI layout."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /\nCOPY file /twice\n")
    (tmp_path / "file").write_text(str(tmp_path))
    layout = tmp_path / "layout"
    output = f"--output=type=oci,tar=false,dest={layout}"
    argv = ["docker", "buildx", "build", f"--platform={request.param}", "--provenance=false", output, str(tmp_path)]
    subprocess.run(argv, check=True, env={**os.environ, **engine.environment()}, capture_output=True)
    (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
    body = json.loads((layout / "blobs" / manifest["digest"].replace(":", "/")).read_text())
    layers = tuple(descriptor(layer) for layer in body["layers"])
    image = Image(
        platform=request.param,
        manifest=descriptor(manifest),
        config=descriptor(body["config"]),
        layers=layers,
        labels=(),
    )
    return image, layout


def names(client: DockerClient) -> list[str]:
    return [name for image in client.images.list() for name in image.tags if name.startswith(REPOSITORY)]


def exists(client: DockerClient, name: str) -> bool:
    return bool(client.images.list(name=name))


def test_the_image_is_there_for_the_block_only(built: tuple[Image, Path], engine: Engine, client: DockerClient) -> None:
    image, layout = built
    with loaded(image, layout, engine, Console(quiet=True)) as reference:
        found = client.images.get(reference)
        assert found.id in (image.digest, image.config.digest)
        assert found.attrs["Architecture"] == image.platform.split("/")[1]
        with loaded(image, layout, engine, Console(quiet=True)) as again:
            assert again == found.id
        assert exists(client, reference), "who found it there leaves it there"
    assert not exists(client, reference)
    assert reference not in names(client)


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


def test_a_blob_with_other_bytes_is_not_taken(built: tuple[Image, Path], engine: Engine) -> None:
    image, layout = built
    blob = layout / "blobs" / image.layers[0].digest.replace(":", "/")
    blob.write_bytes(bytes(image.layers[0].size))
    with pytest.raises(EngineError), loaded(image, layout, engine, Console(quiet=True)):
        pass

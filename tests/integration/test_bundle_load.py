"""`jbuild load` into real engines: Docker with both of its stores, and podman."""

from __future__ import annotations

import io
import json
import random
import signal
import socket
import sys
import tarfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
from bundle_factory import Layers, split, write_bundle, write_image
from docker import DockerClient
from docker.errors import ImageNotFound
from json_results import check
from podman_engine import has_podman, running_podman
from project import Done, Running, clean_environment
from second_engine import can_run, running_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.images import Image

NAME = "jbuild/tiny:cell-1"
BASE = {"srv/base": b"base" * 9000}
MODEL = {"opt/model": random.Random(2).randbytes(700_000)}
ONE: Layers = (BASE, MODEL, {"srv/name": b"one"})
TWO: Layers = (BASE, MODEL, {"srv/name": b"two"})
# The model is in another stack of layers.
THREE: Layers = ({"srv/base": b"other" * 9000}, MODEL, {"srv/name": b"three"})


@dataclass(frozen=True, kw_only=True)
class Side:
    """A machine without a registry: an engine, and a cache."""

    address: str
    kind: str
    folder: Path

    @property
    def client(self) -> DockerClient:
        """A client of the engine."""
        return DockerClient(base_url=self.address)

    def start(self, bundle: Path, address: str | None = None) -> Running:
        """Start `jbuild load`."""
        environment = clean_environment(self.folder / "home", None)
        environment |= {"JBUILD_CACHE": str(self.folder / "cache"), "DOCKER_HOST": address or self.address}
        return Running([sys.executable, "-m", "builder", "load", str(bundle), "--json"], self.folder, environment)

    def load(self, bundle: Path) -> Done:
        """Load a bundle."""
        return self.start(bundle).wait()

    def names(self) -> list[str]:
        """Return all names of images, and temporary files of the cache."""
        left = [str(path) for path in (self.folder / "cache" / "bundles").glob("*")]
        return sorted([name for image in self.client.images.list() for name in image.tags] + left)

    def digest(self) -> str | None:
        """Return the ID of the image with the bundle's name."""
        with suppress(ImageNotFound):
            return str(self.client.images.get(NAME).id)
        return None

    def files(self) -> dict[str, bytes]:
        """Return the files of the image with the bundle's name."""
        container = self.client.containers.create(NAME)
        try:
            content = b"".join(cast("Iterator[bytes]", container.export()))
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                members = [member for member in archive if member.isreg() and member.name.startswith(("srv/", "opt/"))]
                files = {member.name: archive.extractfile(member) for member in members}
                return {name: file.read() for name, file in files.items() if file}
        finally:
            container.remove()


@pytest.fixture(scope="module", params=["containerd", "classic", "podman"])
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    if request.param == "podman":
        if not has_podman():
            pytest.skip("podman is not installed, or this user is not root")
        with running_podman() as podman:
            yield podman, "podman"
        return
    if not can_run():
        pytest.skip("an engine needs root and dockerd")
    with running_engine(containerd=request.param == "containerd") as engine:
        yield engine.host, request.param


@pytest.fixture
def side(address: tuple[str, str], tmp_path: Path) -> Iterator[Side]:
    folder = tmp_path / "side"
    folder.mkdir()
    engine = Side(address=address[0], kind=address[1], folder=folder)
    yield engine
    for image in engine.client.images.list():
        engine.client.images.remove(str(image.id), force=True)


def bundled(folder: Path, layers: Layers, since: Image | None = None) -> Image:
    """Write a bundle; layers of `since` are missing in it."""
    image = write_image(folder, layers)
    own = {layer.digest for layer in since.layers} if since else set()
    write_bundle(folder, image, [*own], since.digest if since else None)
    return image


def contents(layers: Layers) -> dict[str, bytes]:
    return {name: content for layer in layers for name, content in layer.items()}


def reply(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.stderr
    result: dict[str, Any] = check("load", done.stdout)
    return result


def test_a_bundle_is_loaded_once(side: Side, tmp_path: Path) -> None:
    image = bundled(tmp_path / "one", ONE)
    split(tmp_path / "one", tmp_path / "parts", 100_000)
    first = reply(side.load(tmp_path / "parts"))
    assert first["digest"] == image.digest
    assert first["engine"] == {"name": NAME, "endpoint": side.address, "present": False}
    assert side.digest() in (image.digest, image.config.digest) or side.kind == "podman"
    assert side.files() == contents(ONE)
    for folder in ("one", "parts"):
        assert reply(side.load(tmp_path / folder))["engine"]["present"]
    assert len(side.names()) == 1


def test_a_newer_image_takes_the_name(side: Side, tmp_path: Path) -> None:
    bundled(tmp_path / "one", ONE)
    bundled(tmp_path / "two", TWO)
    reply(side.load(tmp_path / "one"))
    reply(side.load(tmp_path / "two"))
    assert side.files() == contents(TWO)
    assert len(side.names()) == 1


@pytest.mark.parametrize("newer", [TWO, THREE], ids=["same layers below", "other layers below"])
def test_missing_layers_are_those_of_the_engine(side: Side, tmp_path: Path, newer: Layers) -> None:
    one = bundled(tmp_path / "one", ONE)
    image = bundled(tmp_path / "newer", newer, since=one)
    split(tmp_path / "newer", tmp_path / "parts", 3000)
    lacking = side.load(tmp_path / "parts")
    assert lacking.code == 7
    expected = [layer for layer in image.layers if layer in one.layers]
    message = json.loads(lacking.stdout)["message"]
    assert f"the engine lacks {len(expected)} of the {len(expected)} blobs that this bundle expects" in message
    assert f"(--since {one.digest})" in message
    assert all(layer.digest in message for layer in expected)
    assert side.names() == []
    reply(side.load(tmp_path / "one"))
    reply(side.load(tmp_path / "parts"))
    assert side.files() == contents(newer)
    assert len(side.names()) == 1


def test_the_same_content_in_another_blob(side: Side, tmp_path: Path) -> None:
    """containerd knows layers by their blobs, Docker's classic store and podman by their content."""
    # Engines collect garbage late: the content must not be that of other tests.
    model = {"opt/model": random.Random(3).randbytes(9000)}
    one = write_image(tmp_path / "one", (BASE, model), level=1)
    write_bundle(tmp_path / "one", one)
    two = write_image(tmp_path / "two", (TWO[2], model), level=9)
    write_bundle(tmp_path / "two", two, [two.layers[1].digest], one.digest)
    reply(side.load(tmp_path / "one"))
    before = side.digest()
    done = side.load(tmp_path / "two")
    if side.kind == "containerd":
        assert done.code == 7
        assert "could not load the image" in json.loads(done.stdout)["message"]
        assert side.digest() == before
        assert side.files() == contents((BASE, model))
    else:
        assert done.code == 0, done.stderr
        assert side.files() == contents((TWO[2], model))
    assert len(side.names()) == 1


def test_a_damaged_bundle_changes_nothing(side: Side, tmp_path: Path) -> None:
    bundled(tmp_path / "one", ONE)
    bundled(tmp_path / "two", TWO)
    split(tmp_path / "two", tmp_path / "parts", 100_000)
    part = tmp_path / "parts" / "parts" / "0002"
    part.write_bytes(part.read_bytes()[:-1])
    reply(side.load(tmp_path / "one"))
    before = side.digest()
    done = side.load(tmp_path / "parts")
    assert done.code == 6
    assert "part 0002" in json.loads(done.stdout)["message"]
    assert side.digest() == before
    assert len(side.names()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_the_earlier_image(side: Side, tmp_path: Path, number: signal.Signals) -> None:
    bundled(tmp_path / "one", ONE)
    large = (BASE, {"opt/model": random.Random(number).randbytes(4_000_000)})
    bundled(tmp_path / "two", large)
    reply(side.load(tmp_path / "one"))
    before = side.digest()
    with stalling(side.address, tmp_path / "s", after=1_000_000) as (stalled_address, stalled):
        running = side.start(tmp_path / "two", stalled_address)
        assert stalled.wait(60)
        running.signal(number)
        done = running.wait()
    assert done.code == 130, done.stderr
    assert side.digest() == before
    assert len(side.names()) == 1
    reply(side.load(tmp_path / "two"))
    assert side.files() == contents(large)
    assert len(side.names()) == 1


@contextmanager
def stalling(address: str, path: Path, after: int) -> Iterator[tuple[str, threading.Event]]:
    """Forward a socket; a connection stops after that many bytes towards the engine, and is cut at the end."""
    target, stalled, over = address.removeprefix("unix://"), threading.Event(), threading.Event()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def forward(source: socket.socket, sink: socket.socket, limit: float) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                limit -= len(block)
                if limit < 0:
                    stalled.set()
                    over.wait()
                    break
                sink.sendall(block)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, far = server.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(target)
                for source, sink, limit in ((near, far, after), (far, near, float("inf"))):
                    threading.Thread(target=forward, args=(source, sink, limit), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"unix://{path}", stalled
    finally:
        over.set()
        server.close()

"""Base images from a real registry: an index of Docker's old types, resumed, checked, kept, and gone."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from servers import Fault, Registry, make_image, registry, running_front

from builder.errors import IntegrityError, RegistryError
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.image.build.cell_image import base_image
from builder.image.oci.layout import blob, is_whole, read_config
from builder.remote.registry.registry_client import DOCKER_INDEX, DOCKER_MANIFEST, RegistryClient, connect
from builder.remote.registry.registry_failures import ImageMissingError
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.images import Image

__all__ = ["registry"]

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture(autouse=True)
def _nobodys_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session with a cache of its own."""
    workspace = Workspace(project=tmp_path / "project", cache=tmp_path / "cache")
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


def push_docker_style(registry: Registry, image: Image, layout: Path, session: Session) -> str:
    """Push an image, and one for another architecture, as Docker did before OCI; return the index's digest."""
    client = connect(registry.host, session.config)
    for part in (image.config, *image.layers):
        client.send_blob("a/base", BytesBlob(blob(layout, part.digest).read_bytes()))
    layers = [{"mediaType": DOCKER_LAYER, "digest": part.digest, "size": part.size} for part in image.layers]
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": image.config.digest, "size": 1}
    ours = put(client, {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers})
    other = put(client, {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers[:1]})
    entries = [
        {"mediaType": DOCKER_MANIFEST, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
        | {"platform": {"os": "linux", "architecture": architecture}}
        for content, architecture in ((other, "amd64"), (ours, "arm64"))
    ]
    index = put(client, {"schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": entries})
    return f"sha256:{hashlib.sha256(index).hexdigest()}"


def put(client: RegistryClient, document: dict[str, object]) -> bytes:
    content = json.dumps(document).encode()
    kind = str(document["mediaType"])
    client.put_manifest("a/base", f"sha256:{hashlib.sha256(content).hexdigest()}", content, kind)
    return content


def test_an_index_of_docker_types(registry: Registry, session: Session, tmp_path: Path) -> None:
    image = make_image(tmp_path / "theirs")
    pinned = f"{registry.host}/a/base@{push_docker_style(registry, image, tmp_path / 'theirs', session)}"
    found = base_image(pinned, "arm64", session)
    assert found.layers == image.layers, "the types are OCI's"
    assert found.platform == "linux/arm64"
    assert is_whole(session.workspace.images, found)
    for layer in found.layers:
        content = blob(session.workspace.images, layer.digest).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == layer.digest
    assert read_config(session.workspace.images, found)["architecture"] == "arm64"
    assert base_image(pinned, "amd64", session).layers == image.layers[:1]


def test_it_is_read_once_wherever_it_is_named(registry: Registry, session: Session, tmp_path: Path) -> None:
    image = make_image(tmp_path / "theirs")
    digest = push_docker_style(registry, image, tmp_path / "theirs", session)
    found = base_image(f"{registry.host}/a/base@{digest}", "arm64", session)
    nowhere = f"127.0.0.1:9/mirror/base@{digest}"
    assert base_image(nowhere, "arm64", session) == found


def test_a_connection_that_breaks_and_a_layer_that_is_another(
    registry: Registry, session: Session, tmp_path: Path
) -> None:
    image = make_image(tmp_path / "theirs", sizes=(3_000_000,))
    digest = push_docker_style(registry, image, tmp_path / "theirs", session)
    layer = f"GET .*{image.layers[0].digest}"
    with running_front(registry, Fault(match=layer, kind="cut-answer", after=1_500_000)) as front:
        pinned = f"{front.host}/a/base@{digest}"
        base_image(pinned, "arm64", session)
        assert front.asked(layer) == 2
    blob(session.workspace.images, image.layers[0].digest).unlink()
    with running_front(registry, Fault(match=layer, kind="swap", body=b"x" * 3_000_000, times=None)) as front:
        pinned = f"{front.host}/a/base@{digest}"
        with pytest.raises(IntegrityError, match="other bytes"):
            base_image(pinned, "arm64", session)
    held = {path.name for path in (session.workspace.images / "blobs" / "sha256").iterdir()}
    assert image.layers[0].digest[7:] not in held
    assert not any(name.startswith(".") for name in held)


def test_an_image_that_is_gone_or_is_none(registry: Registry, session: Session, tmp_path: Path) -> None:
    with pytest.raises(ImageMissingError, match="is no longer in its registry") as raised:
        base_image(f"{registry.host}/a/base@sha256:{'0' * 64}", "arm64", session)
    assert "jbuild lock --force" in str(raised.value.hint)
    image = make_image(tmp_path / "theirs")
    digest = push_docker_style(registry, image, tmp_path / "theirs", session)
    with pytest.raises(RegistryError, match="is not valid"):
        base_image(f"{registry.host}/a/base@{digest}", "riscv64", session)

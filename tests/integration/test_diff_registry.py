"""Comparisons of images in a real registry on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from servers import Front, Registry, make_image, running_registry

from builder.errors import RecipeError, RegistryError
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.model.recipes import TagRule
from builder.project.diff.difference import compare
from builder.project.diff.subject import subject
from builder.publish.image_source import from_layout
from builder.publish.push import PublishOptions, publish
from builder.remote.registry.registry_client import OCI_INDEX, connect
from builder.remote.registry.registry_failures import ImageMissingError, RegistryUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.images import Image

LABELS = (("io.jbuild.vllm", "0.15.1"), ("io.jbuild.torch", "2.10.0"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def session(tmp_path: Path) -> Session:
    workspace = Workspace(project=tmp_path / "project", cache=tmp_path / "cache")
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


def push(session: Session, image: Image, host: str, tag: str) -> str:
    layout, console = session.workspace.images, session.console
    wish = PublishOptions(repository="vllm", tags=(TagRule(name=tag),), building_block=True)
    publish(from_layout(image, layout), (f"{host}/edge",), wish, config=session.config, console=console)
    return f"{host}/edge/vllm:{tag}"


def test_two_tags(session: Session, registry: Registry) -> None:
    layout = session.workspace.images
    one = make_image(layout, sizes=(300_000, 70_000), labels=LABELS)
    two = make_image(layout, sizes=(50_000,), labels=(("io.jbuild.vllm", "0.20.2"), LABELS[1]))
    names = [push(session, image, registry.host, tag) for image, tag in ((one, "1"), (two, "2"))]
    found = compare(*(subject(name, session, "arm64") for name in names))
    assert found.packages is not None
    assert [(c.name, c.before, c.after) for c in found.packages.changed] == [("vllm", "0.15.1", "0.20.2")]
    assert found.pull == 50_000 + two.config.size
    assert found.before.digest == one.digest
    same = compare(subject(names[0], session, "arm64"), subject(one.digest, session, "arm64"))
    assert (same.identical, same.pull) == (True, 0)


def test_a_digest_and_an_image_for_two_architectures(session: Session, registry: Registry) -> None:
    layout = session.workspace.images
    arm, amd = (make_image(layout, sizes=(size,), architecture=of) for size, of in ((900, "arm64"), (800, "amd64")))
    for image, tag in ((arm, "arm"), (amd, "amd")):
        push(session, image, registry.host, tag)
    entries: list[dict[str, Any]] = [
        {
            "mediaType": image.manifest.media_type,
            "digest": image.digest,
            "size": image.manifest.size,
            "platform": {"os": "linux", "architecture": of},
        }
        for image, of in ((arm, "arm64"), (amd, "amd64"))
    ]
    entries.append({**entries[0], "platform": {"os": "unknown", "architecture": "unknown"}})
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    connect(registry.host, session.config).put_manifest("edge/vllm", "both", index, OCI_INDEX)
    both = f"{registry.host}/edge/vllm:both"
    assert subject(both, session, "arm64").digest == arm.digest
    assert subject(both, session, "amd64").digest == amd.digest
    assert subject(f"{registry.host}/edge/vllm@{amd.digest}", session, "arm64").digest == amd.digest
    with pytest.raises(RecipeError, match="the image is for amd64, arm64, not for riscv64"):
        subject(both, session, "riscv64")


def test_what_the_registry_does_not_hold(session: Session, registry: Registry) -> None:
    with pytest.raises(ImageMissingError):
        subject(f"{registry.host}/edge/none:1", session, "arm64")
    with Front(registry.host) as front:
        assert front.host
    with pytest.raises(RegistryUnreachableError):
        subject(f"{front.host}/edge/vllm:1", session, "arm64")


def test_something_else_than_an_image(session: Session, registry: Registry) -> None:
    client = connect(registry.host, session.config)
    image = make_image(session.workspace.images)
    push(session, image, registry.host, "1")
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"digest": image.digest, "size": 1, "mediaType": "x"}],
    }
    client.put_manifest("edge/vllm", "odd", json.dumps(manifest).encode(), OCI_INDEX)
    with pytest.raises((RegistryError, RecipeError)):
        subject(f"{registry.host}/edge/vllm:odd", session, "arm64")

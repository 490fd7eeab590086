"""Reading images from an OCI layout."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from builder.errors import BuildError
from builder.image.oci.layout import blob, is_whole, read_image

if TYPE_CHECKING:
    from pathlib import Path


def put(layout: Path, content: bytes) -> dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    path = blob(layout, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": "application/x", "digest": digest, "size": len(content)}


@pytest.fixture
def digest(tmp_path: Path) -> str:
    """An image of two layers in a layout; the digest of its manifest."""
    config = put(tmp_path, json.dumps({"config": {"Labels": {"b": "2", "a": "1"}}}).encode())
    layers = [put(tmp_path, b"one"), put(tmp_path, b"three")]
    manifest = {"schemaVersion": 2, "mediaType": "application/m", "config": config, "layers": layers}
    return str(put(tmp_path, json.dumps(manifest).encode())["digest"])


def test_an_image_is_read(tmp_path: Path, digest: str) -> None:
    image = read_image(tmp_path, digest, "linux/arm64")
    assert image.digest == digest
    assert image.manifest.media_type == "application/m"
    assert [layer.size for layer in image.layers] == [3, 5]
    assert image.labels == (("a", "1"), ("b", "2"))
    assert image.size == sum(path.stat().st_size for path in (tmp_path / "blobs" / "sha256").iterdir())
    assert is_whole(tmp_path, image)


def test_an_image_without_labels(tmp_path: Path) -> None:
    configs: tuple[dict[str, Any], ...] = ({}, {"config": {}}, {"config": {"Labels": None}})
    for config in configs:
        manifest = {"config": put(tmp_path, json.dumps(config).encode()), "layers": []}
        image = read_image(tmp_path, str(put(tmp_path, json.dumps(manifest).encode())["digest"]), "linux/arm64")
        assert image.labels == ()
        assert image.manifest.media_type == "application/vnd.oci.image.manifest.v1+json"


def test_a_missing_or_shortened_blob_is_noticed(tmp_path: Path, digest: str) -> None:
    image = read_image(tmp_path, digest, "linux/arm64")
    layer = blob(tmp_path, image.layers[1].digest)
    layer.write_bytes(b"thr")
    assert not is_whole(tmp_path, image)
    layer.unlink()
    assert not is_whole(tmp_path, image)


@pytest.mark.parametrize("damage", [None, b"", b"not json", b"\xff"])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, digest: str, damage: bytes | None) -> None:
    path = blob(tmp_path, digest)
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(BuildError, match="is not in the layout") as caught:
        read_image(tmp_path, digest, "linux/arm64")
    assert "--force" in (caught.value.hint or "")


@pytest.mark.parametrize("manifest", [{"manifests": []}, [], {"config": {}, "layers": []}])
def test_a_manifest_of_something_else(tmp_path: Path, manifest: object) -> None:
    digest = str(put(tmp_path, json.dumps(manifest).encode())["digest"])
    with pytest.raises(BuildError):
        read_image(tmp_path, digest, "linux/arm64")

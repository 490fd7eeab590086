"""Blobs that consist of files of the cache: the same bytes as a file would have, and nothing of them twice."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from factories import make_model

from builder.errors import IntegrityError, ModelError
from builder.host import tarball
from builder.host.config import LayerCompression
from builder.image.build.reproduce import members
from builder.image.layers.layer import LayerWork, ModelLayer
from builder.image.oci import virtual_blob
from builder.image.oci.engine_load import stream
from builder.image.oci.layout import (
    absent_blobs,
    blob,
    is_present,
    is_whole,
    mark_image_used,
    open_blob,
    put_image,
)
from builder.image.oci.pack import Packed, pack, pack_layer
from builder.model.model_files import LockedModel, ModelFile
from builder.models import model_store
from builder.publish.image_source import from_layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.host.paths import Workspace
    from builder.model.images import Image

CONTENT = {"a/model-1.safetensors": os.urandom((9 << 20) + 5), "config.json": b"{}", "model-2.safetensors": b""}


@pytest.fixture
def model(workspace: Workspace) -> LockedModel:
    """A model whose files are in the store."""
    files = []
    for path, content in CONTENT.items():
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(ModelFile(path=path, sha256=sha256, size=len(content)))
        target = model_store.blob(workspace.models, sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return make_model(name="tiny", files=tuple(files))


@pytest.fixture
def layer(workspace: Workspace, model: LockedModel) -> ModelLayer:
    """The model's layer."""
    return ModelLayer(name="model-tiny-0123456789ab", model=model, models=workspace.models)


def work_of(read: list[float] | None = None) -> LayerWork:
    return LayerWork(pool=None, scratch=Path("/nowhere"), advance=([] if read is None else read).append)


def pack_it(layer: ModelLayer, workspace: Workspace, read: list[float] | None = None) -> Packed:
    return pack_layer(layer, work_of(read), LayerCompression(), workspace, lambda: None)


def tar_of(layer: ModelLayer) -> bytes:
    return b"".join(tarball.blocks(layer.segments(work_of())))


@pytest.fixture
def packed(workspace: Workspace, layer: ModelLayer) -> Packed:
    """The layer, packed."""
    return pack_it(layer, workspace)


@pytest.fixture
def image(workspace: Workspace, packed: Packed) -> Image:
    """An image that has nothing but that layer."""
    return put_image(workspace.images, b'{"config": {}}', [packed.blob], "linux/arm64")


def weights(workspace: Workspace) -> Path:
    return model_store.blob(workspace.models, hashlib.sha256(CONTENT["a/model-1.safetensors"]).hexdigest())


def whole(blocks: Iterable[bytes]) -> bytes:
    return b"".join(blocks)


def test_it_is_the_same_blob_and_holds_no_second_copy(workspace: Workspace, layer: ModelLayer, packed: Packed) -> None:
    layout = workspace.images
    assert not blob(layout, packed.blob.digest).exists()
    assert sum(path.stat().st_size for path in layout.rglob("*") if path.is_file()) < 20_000
    assert is_present(layout, packed.blob)
    with open_blob(layout, packed.blob.digest) as file:
        content = file.read()
    assert content == tar_of(layer)
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == packed.blob.digest == packed.diff_id
    assert pack(tarball.blocks(layer.segments(work_of())), LayerCompression(), layout, lambda _: None) == packed
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for path, expected in CONTENT.items():
            assert archive.extractfile(f"models/tiny/{path}").read() == expected  # type: ignore[union-attr]


def test_it_is_found_again(workspace: Workspace, layer: ModelLayer, packed: Packed) -> None:
    read: list[float] = []
    assert pack_it(layer, workspace, read) == packed
    assert read == [layer.size], "its size counts as read"


def test_it_is_read_from_any_place_on(workspace: Workspace, layer: ModelLayer, packed: Packed) -> None:
    expected = tar_of(layer)
    with open_blob(workspace.images, packed.blob.digest) as file:
        assert file.seekable()
        for at in (0, 511, 512, 1500, 2048, 9 << 20, len(expected) - 700, len(expected), 3):
            assert file.seek(at) == at == file.tell()
            assert file.read(1000) == expected[at : at + 1000]
        assert file.seek(0, os.SEEK_END) == len(expected)
        file.seek(10)
        assert file.seek(5, os.SEEK_CUR) == 15
        assert file.read() == expected[15:]


def test_all_who_read_layers_read_it(workspace: Workspace, layer: ModelLayer, image: Image) -> None:
    expected = tar_of(layer)
    source = from_layout(image, workspace.images)
    assert source.blobs[0].size == len(expected)
    with source.blobs[0].open(700) as readable:
        assert readable.read(900) == expected[700:1600]
    assert source.blobs[0].find_corruption() is None
    with members(image.layers[0], workspace.images) as found:
        assert {each["name"]: each["sha256"] for each in found if each["sha256"]} == {
            f"models/tiny/{path}": hashlib.sha256(content).hexdigest() for path, content in CONTENT.items()
        }
    loaded = whole(stream(image, workspace.images, "a:b", lambda _: None))
    with tarfile.open(fileobj=io.BytesIO(loaded)) as archive:
        name = "blobs/" + image.layers[0].digest.replace(":", "/")
        assert archive.extractfile(name).read() == expected  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [None, b"shorter"])
def test_what_has_gone_from_the_store_is_missed(workspace: Workspace, image: Image, content: bytes | None) -> None:
    path = weights(workspace)
    path.unlink()
    if content:
        path.write_bytes(content)
    assert not is_whole(workspace.images, image)
    assert absent_blobs(workspace.images, image) == image.layers[:1]
    with pytest.raises(IntegrityError, match="missing") as caught:
        from_layout(image, workspace.images)
    assert "--force" in (caught.value.hint or "")
    with pytest.raises(FileNotFoundError):
        open_blob(workspace.images, image.layers[0].digest)


def test_a_file_that_changed_is_named(workspace: Workspace, image: Image) -> None:
    source, path = from_layout(image, workspace.images), weights(workspace)
    path.write_bytes(bytes(path.stat().st_size))
    fault = source.blobs[0].find_corruption()
    assert isinstance(fault, IntegrityError)
    assert (fault.where or "").endswith(path.name)


def test_a_file_that_is_cut_while_it_is_read(workspace: Workspace, packed: Packed) -> None:
    with open_blob(workspace.images, packed.blob.digest) as file:
        file.read(5000)
        os.truncate(weights(workspace), 6000)
        with pytest.raises(OSError, match="became shorter"):
            file.read()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff"])
def test_a_damaged_note_is_as_good_as_none(workspace: Workspace, packed: Packed, damage: bytes) -> None:
    virtual_blob.record_path(workspace.images, packed.blob.digest).write_bytes(damage)
    assert not is_present(workspace.images, packed.blob)


def test_what_compresses_has_a_file_of_its_own(workspace: Workspace) -> None:
    content = b"0123456789abcdef" * (1 << 20)
    sha256 = hashlib.sha256(content).hexdigest()
    target = model_store.blob(workspace.models, sha256)
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    model = make_model(name="tiny", files=(ModelFile(path="w.safetensors", sha256=sha256, size=len(content)),))
    made = pack_it(ModelLayer(name="model-tiny-0", model=model, models=workspace.models), workspace)
    assert made.blob.media_type.endswith("+zstd")
    assert blob(workspace.images, made.blob.digest).is_file()


def test_weights_that_the_store_has_lost_are_an_error(workspace: Workspace, layer: ModelLayer) -> None:
    weights(workspace).unlink()
    with pytest.raises(ModelError, match="is not in the cache") as caught:
        pack_it(layer, workspace)
    assert "--from render" in (caught.value.hint or "")


@pytest.mark.parametrize("compresses", [False, True])
def test_weights_that_changed_in_the_cache_are_never_packed(workspace: Workspace, *, compresses: bool) -> None:
    content = b"0123456789abcdef" * (1 << 20) if compresses else os.urandom(9 << 20)
    sha256 = hashlib.sha256(content).hexdigest()
    path = model_store.blob(workspace.models, sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    model = make_model(name="tiny", files=(ModelFile(path="w.safetensors", sha256=sha256, size=len(content)),))
    layer = ModelLayer(name="model-tiny-0", model=model, models=workspace.models)
    with path.open("r+b") as file:
        file.seek(8 << 20)
        file.write(b"!")
    with pytest.raises(IntegrityError, match="no longer matches the lock") as caught:
        pack_it(layer, workspace)
    assert caught.value.where == str(path)
    assert (caught.value.hint or "").startswith("run `jbuild models verify RECIPE`")
    assert not [each for each in workspace.images.rglob("*") if each.is_file()]


def test_use_of_an_image_is_use_of_its_files(workspace: Workspace, image: Image) -> None:
    path = weights(workspace)
    before = path.stat()
    mark_image_used(workspace.images, image)
    after = path.stat()
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_a_cache_that_was_moved_is_whole(workspace: Workspace, image: Image, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    workspace.cache.rename(moved)
    assert is_whole(moved / workspace.images.relative_to(workspace.cache), image)

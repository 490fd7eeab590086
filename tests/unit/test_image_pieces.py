"""Blobs that consist of files of the cache: the same bytes as a file would have, and nothing of them twice."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from factories import make_model

from builder.errors import IntegrityError
from builder.image.build.reproduce import members
from builder.image.oci import tarball, virtual_blob
from builder.image.oci.layout import (
    blob,
    damaged_blobs,
    is_present,
    is_whole,
    mark_image_used,
    open_blob,
    put_image,
)
from builder.image.oci.pack import Packed, pack, pack_folder
from builder.image.render.context import bake, stored_files
from builder.model.model_files import LockedModel, ModelFile
from builder.models import model_store
from builder.publish.image_source import from_layout
from builder.smoke.engine_load import stream

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

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
def layer(workspace: Workspace, model: LockedModel, tmp_path: Path) -> Path:
    """The model's layer."""
    folder = tmp_path / "layers" / "model-tiny-0123456789ab"
    bake(model, workspace.models, folder)
    return folder


@pytest.fixture
def packed(workspace: Workspace, model: LockedModel, layer: Path) -> Packed:
    """The layer, packed."""
    return pack_folder(layer, "zstd", workspace, lambda _: None, stored_files([model], workspace.models))


@pytest.fixture
def image(workspace: Workspace, packed: Packed) -> Image:
    """An image that has nothing but that layer."""
    return put_image(workspace.images, b'{"config": {}}', [packed.blob], "linux/arm64")


def weights(workspace: Workspace) -> Path:
    return model_store.blob(workspace.models, hashlib.sha256(CONTENT["a/model-1.safetensors"]).hexdigest())


def whole(blocks: Iterable[bytes]) -> bytes:
    return b"".join(blocks)


def test_it_is_the_same_blob_and_holds_no_second_copy(workspace: Workspace, layer: Path, packed: Packed) -> None:
    layout = workspace.images
    assert not blob(layout, packed.blob.digest).exists()
    assert sum(path.stat().st_size for path in layout.rglob("*") if path.is_file()) < 20_000
    assert is_present(layout, packed.blob)
    with open_blob(layout, packed.blob.digest) as file:
        content = file.read()
    assert content == whole(tarball.blocks(tarball.segments(layer)))
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == packed.blob.digest == packed.diff_id
    assert pack(tarball.blocks(tarball.segments(layer)), "zstd", layout, lambda _: None) == packed
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for path, expected in CONTENT.items():
            assert archive.extractfile(f"models/tiny/{path}").read() == expected  # type: ignore[union-attr]


def test_it_is_found_again(workspace: Workspace, model: LockedModel, layer: Path, packed: Packed) -> None:
    read: list[float] = []
    kept = stored_files([model], workspace.models)
    assert pack_folder(layer, "zstd", workspace, read.append, kept) == packed
    assert read == []


def test_it_is_read_from_any_place_on(workspace: Workspace, layer: Path, packed: Packed) -> None:
    expected = whole(tarball.blocks(tarball.segments(layer)))
    with open_blob(workspace.images, packed.blob.digest) as file:
        assert file.seekable()
        for at in (0, 511, 512, 1500, 2048, 9 << 20, len(expected) - 700, len(expected), 3):
            assert file.seek(at) == at == file.tell()
            assert file.read(1000) == expected[at : at + 1000]
        assert file.seek(0, os.SEEK_END) == len(expected)
        file.seek(10)
        assert file.seek(5, os.SEEK_CUR) == 15
        assert file.read() == expected[15:]


def test_all_who_read_layers_read_it(workspace: Workspace, layer: Path, image: Image) -> None:
    expected = whole(tarball.blocks(tarball.segments(layer)))
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
    assert damaged_blobs(workspace.images, image) == (blob(workspace.images, image.layers[0].digest),)
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


def test_what_compresses_has_a_file_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    content = b"0123456789abcdef" * (1 << 20)
    sha256 = hashlib.sha256(content).hexdigest()
    target = model_store.blob(workspace.models, sha256)
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    model = make_model(name="tiny", files=(ModelFile(path="w.safetensors", sha256=sha256, size=len(content)),))
    bake(model, workspace.models, tmp_path / "layer")
    kept = stored_files([model], workspace.models)
    made = pack_folder(tmp_path / "layer", "zstd", workspace, lambda _: None, kept)
    assert made.blob.media_type.endswith("+zstd")
    assert blob(workspace.images, made.blob.digest).is_file()


def test_much_beside_what_is_kept_makes_a_file(
    workspace: Workspace, model: LockedModel, layer: Path, tmp_path: Path
) -> None:
    (layer / "models" / "tiny" / "beside.bin").write_bytes(os.urandom(2 << 20))
    kept = stored_files([model], workspace.models)
    made = pack_folder(layer, "zstd", workspace, lambda _: None, kept)
    assert blob(workspace.images, made.blob.digest).is_file()


def test_what_the_store_has_lost_is_packed_from_the_layer(
    workspace: Workspace, model: LockedModel, layer: Path, packed: Packed
) -> None:
    weights(workspace).unlink()
    made = pack_folder(layer, "zstd", workspace, lambda _: None, stored_files([model], workspace.models))
    assert made == packed
    assert blob(workspace.images, made.blob.digest).read_bytes() == whole(tarball.blocks(tarball.segments(layer)))


@pytest.mark.parametrize("compresses", [False, True])
def test_weights_that_changed_in_the_cache_are_never_packed(
    workspace: Workspace, tmp_path: Path, *, compresses: bool
) -> None:
    content = b"0123456789abcdef" * (1 << 20) if compresses else os.urandom(9 << 20)
    sha256 = hashlib.sha256(content).hexdigest()
    path = model_store.blob(workspace.models, sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    model = make_model(name="tiny", files=(ModelFile(path="w.safetensors", sha256=sha256, size=len(content)),))
    layer, kept = tmp_path / "layer", stored_files([model], workspace.models)
    bake(model, workspace.models, layer)
    with path.open("r+b") as file:
        file.seek(8 << 20)
        file.write(b"!")
    for place, fix in ((path, "run `jbuild models verify RECIPE`"), (layer / "models/tiny/w.safetensors", "remove /")):
        with pytest.raises(IntegrityError, match="no longer matches the lock") as caught:
            pack_folder(layer, "zstd", workspace, lambda _: None, kept)
        assert caught.value.where == str(place)
        assert (caught.value.hint or "").startswith(fix)
        path.unlink(missing_ok=True)
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

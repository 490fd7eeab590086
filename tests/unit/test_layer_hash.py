"""Layers whose digest is known since their file arrived: not read again, and never with other bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from factories import make_session
from model_files import make_folder, weights

from builder.errors import IntegrityError
from builder.host import tarball
from builder.host.config import LayerCompression
from builder.image.layers import layer_groups
from builder.image.layers.layer import LayerWork, ModelLayer
from builder.image.layers.layer_groups import model_layers
from builder.image.oci.layout import find_corruption, open_blob
from builder.image.oci.pack import Packed, pack, pack_layer
from builder.model.recipes import Model
from builder.models import layer_hash, model_store
from builder.models.fetch import fetch_model
from builder.models.model_lock import lock_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.model.model_files import LockedModel

BYTES = 20 << 20
# What packing reads of a file to see whether it compresses.
SAMPLE = 9 << 20


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path / "cache" / "models")


@pytest.fixture(params=["noise", "zeros"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A model with a large file, in a folder of the model's folder."""
    content = weights({"w": ("U8", [BYTES])})
    if request.param == "noise":
        content = content[:-BYTES] + os.urandom(BYTES)
    make_folder(tmp_path / "tiny", model__safetensors=content)
    make_folder(tmp_path / "tiny" / "vision", model__safetensors=content[:-1] + bytes([content[-1] ^ 1]))
    return tmp_path / "tiny"


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some megabytes are large."""
    for module in (layer_hash, layer_groups):
        monkeypatch.setattr(module, "OWN_LAYER_FROM", 1 << 20)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The bytes that tars have read of each file."""
    counted: dict[str, int] = {}
    usual = tarball._content

    def content(path: str, size: int) -> Iterator[bytes]:
        for block in usual(path, size):
            counted[path] = counted.get(path, 0) + len(block)
            yield block

    monkeypatch.setattr(tarball, "_content", content)
    return counted


def arrive(folder: Path, session: Session, *, fetching: bool) -> LockedModel:
    locked = lock_model(Model(name="tiny", source="./tiny"), folder.parent, session, fetching=fetching)
    fetch_model(locked, folder.parent, session)
    return locked


def layers(locked: LockedModel, session: Session) -> list[ModelLayer]:
    """Return the layers of the large files."""
    parts = [part for part in model_layers([locked], wheels=3) if part.size > BYTES]
    assert [len(part.files) for part in parts] == [1, 1]
    return [
        ModelLayer(name=f"model-{part.name}-{number}", model=part, models=session.workspace.models)
        for number, part in enumerate(parts)
    ]


def packed(layer: ModelLayer, session: Session, advanced: list[float] | None = None) -> Packed:
    work = LayerWork(pool=None, scratch=Path("/nowhere"), advance=([] if advanced is None else advanced).append)
    return pack_layer(layer, work, LayerCompression(), session.workspace, lambda: None)


def stored(layer: ModelLayer) -> Path:
    return model_store.blob(layer.models, layer.model.files[0].sha256)


@pytest.mark.parametrize("fetching", [True, False])
def test_the_same_layers_with_less_reading(
    folder: Path, session: Session, tmp_path: Path, read: dict[str, int], *, fetching: bool
) -> None:
    for layer in layers(arrive(folder, session, fetching=fetching), session):
        advanced: list[float] = []
        made = packed(layer, session, advanced)
        if made.blob.media_type.endswith(".tar"):
            assert read[str(stored(layer))] < SAMPLE
        else:
            assert BYTES < read[str(stored(layer))] < BYTES + SAMPLE
        assert sum(advanced) == sum(len(block) for block in tarball.blocks(layer.segments(_work())))
        with open_blob(session.workspace.images, made.blob.digest) as blob:
            assert f"sha256:{hashlib.sha256(blob.read()).hexdigest()}" == made.blob.digest
        plain = pack(tarball.blocks(layer.segments(_work())), LayerCompression(level=1), tmp_path, lambda _: None)
        assert plain == made


def _work() -> LayerWork:
    return LayerWork(pool=None, scratch=Path("/nowhere"), advance=lambda _: None)


def test_other_bytes_in_the_store_never_get_into_an_image(folder: Path, session: Session) -> None:
    layer, other = layers(arrive(folder, session, fetching=True), session)
    path, layout = stored(layer), session.workspace.images
    compresses = packed(other, session).blob.media_type.endswith("zstd")
    with path.open("r+b") as file:
        file.seek(BYTES - 5)
        file.write(b"!")
    if compresses:
        with pytest.raises(IntegrityError, match="no longer matches the lock") as caught:
            packed(layer, session)
        assert caught.value.where == str(path)
        assert len(list((layout / "blobs" / "sha256").iterdir())) == 1, "the other layer's"
    else:
        corruption = find_corruption(layout, packed(layer, session).blob.digest)
        assert corruption is not None
        assert (corruption.where or "").endswith(path.name)
    assert find_corruption(layout, packed(other, session).blob.digest) is None


def test_a_file_with_another_path_is_another_layer(folder: Path, session: Session, tmp_path: Path) -> None:
    one, _ = layers(arrive(folder, session, fetching=True), session)
    assert layer_hash.known_layer(one.models, tuple(tarball.merged(one.segments(_work()))))
    folder.rename(tmp_path / "big")
    locked = lock_model(Model(name="big", source="./big"), tmp_path, session, fetching=True)
    other, _ = layers(locked, session)
    assert packed(other, session).diff_id != packed(one, session).diff_id
    with open_blob(session.workspace.images, packed(other, session).blob.digest) as blob:
        assert f"sha256:{hashlib.sha256(blob.read()).hexdigest()}" == packed(other, session).blob.digest


def test_small_files_are_hashed_once(folder: Path, session: Session) -> None:
    arrive(folder, session, fetching=True)
    known = {path.read_text().strip() for path in (session.workspace.models / "known").rglob("*") if path.is_file()}
    contents = {path.name for path in (session.workspace.models / "sha256").rglob("*") if path.is_file()}
    assert len(known - contents) == 2

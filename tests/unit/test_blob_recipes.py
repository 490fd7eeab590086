"""Blobs that travel as recipes: the receiver makes the same bytes of its own files and the literals that came."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import zipfile
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_wheel
from layer_files import make, wheels_layer

from builder.host import tarball
from builder.host.config import LayerCompression
from builder.host.paths import Workspace
from builder.image.oci.layout import blob, image_blobs, put, put_image
from builder.image.oci.pack import pack
from builder.model.slimming import SlimRules
from gpu_proof import blob_recipes
from gpu_proof.recipe_file import LITERALS, read_recipes
from slimming.gpu_library import make_container, make_entry, make_library

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Image

GPU = make_library((make_container(*(make_entry(f"sm_{sm}", size=90_000) for sm in (80, 87, 90))),))
OTHER_GPU = make_library((make_container(*(make_entry(f"sm_{sm}", size=80_000) for sm in (90, 120))),))
HOPPER = SlimRules(sms=(90,), same_major=False)
LEVEL = LayerCompression().level
WEIGHTS = bytes(random.Random(1).choices(b"abcdefgh", k=300_000))


@pytest.fixture
def image(tmp_path: Path, session: Session) -> Image:
    """An image with a base layer by another program, a wheel whole and slimmed, and weights."""
    layout = session.workspace.images
    files: dict[str, str | bytes] = {
        "demo/__init__.py": "answer = 42\n" * 200,
        "demo/_C.so": GPU,
        "demo/_D.so": OTHER_GPU,
        "demo/empty": "",
    }
    wheel = locked(make_wheel(tmp_path, files=files))
    layers = [
        put(
            layout,
            gzip.compress(b"".join(tarball.blocks([bytes(1024)])), 4),
            "application/vnd.oci.image.layer.v1.tar+gzip",
        )
    ]
    for rules in ({}, {wheel.sha256: HOPPER}):
        made = make(wheels_layer([wheel], session, rules), session)
        layers.append(pack([made.tar], LayerCompression(), layout, lambda _: None).blob)
    model = tarball.segments([tarball.file_of("model.safetensors", WEIGHTS)])
    layers.append(pack(tarball.blocks(model), LayerCompression(level=1), layout, lambda _: None).blob)
    return put_image(layout, b'{"config":{}}', layers, "linux/amd64")


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Files of the receiver: one of the wheel's libraries, and another file."""
    rows = []
    for name, content in (("lib/torch.so", GPU), ("lib/other", b"other")):
        path = tmp_path / "receiver" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows.append(f"{hashlib.sha256(content).hexdigest()} {len(content)} {path}\n")
    path = tmp_path / "inventory.txt.gz"
    path.write_bytes(gzip.compress("".join(rows).encode()))
    return path


@pytest.fixture
def encoded(tmp_path: Path, session: Session, image: Image, inventory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Workspace, "current", lambda: session.workspace)
    argv = ["encode", str(session.workspace.images), str(tmp_path / "encoded"), "--image", image.digest]
    assert blob_recipes.main([*argv, "--inventory", str(inventory), "--level", "1"]) == 0
    return tmp_path / "encoded"


def test_the_receiver_makes_the_same_blobs(
    tmp_path: Path, session: Session, image: Image, inventory: Path, encoded: Path
) -> None:
    (tmp_path / "note.txt").write_text("taken along")
    argv = ["pack", str(encoded), str(tmp_path / "parts"), "--mib", "1", "--also", str(tmp_path / "note.txt")]
    assert blob_recipes.main(argv) == 0
    parts = json.loads((tmp_path / "parts" / "parts.json").read_text())
    assert [part["name"] for part in parts] == ["0001"]
    argv = ["decode", str(tmp_path / "parts"), str(tmp_path / "made"), "--inventory", str(inventory)]
    assert blob_recipes.main(argv) == 0
    for made in image_blobs(image):
        assert (
            blob(tmp_path / "made", made.digest).read_bytes()
            == blob(session.workspace.images, made.digest).read_bytes()
        )
    assert (tmp_path / "parts" / "also" / "note.txt").read_text() == "taken along"
    assert json.loads((tmp_path / "made" / "index.json").read_text())["manifests"][0]["digest"] == image.digest


def test_only_what_the_receiver_cannot_make_travels(image: Image, encoded: Path) -> None:
    recipes = read_recipes(encoded)
    by_sha256 = {source.sha256: source for source in recipes.sources}
    theirs = by_sha256[hashlib.sha256(GPU).hexdigest()]
    assert theirs.steps == ()
    travelling = by_sha256[hashlib.sha256(OTHER_GPU).hexdigest()]
    assert [kind for kind, _, _ in travelling.steps] == ["literal"]
    slimmed = [source for source in recipes.sources if source.original is not None]
    assert {recipes.sources[source.original or 0].sha256 for source in slimmed} == {theirs.sha256, travelling.sha256}
    assert [recipe.level for recipe in recipes.blobs if recipe.blob in image.layers] == [None, LEVEL, LEVEL, 1]
    assert (encoded / LITERALS).stat().st_size < len(WEIGHTS)


def test_blobs_that_the_receiver_has_do_not_travel(
    tmp_path: Path, session: Session, image: Image, encoded: Path
) -> None:
    other = put_image(session.workspace.images, b'{"config":{"User":"other"}}', image.layers, "linux/amd64")
    argv = ["encode", str(session.workspace.images), str(tmp_path / "other"), "--image", other.digest]
    assert blob_recipes.main([*argv, "--without", image.digest, "--unchecked"]) == 0
    assert [recipe.blob for recipe in read_recipes(tmp_path / "other").blobs] == [other.manifest, other.config]


def test_the_receiver_looks_for_the_files_of_wheels_that_it_has_installed(
    tmp_path: Path,
    session: Session,
    image: Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Workspace, "current", lambda: session.workspace)
    (wheel,) = session.workspace.cache.rglob("*.whl")
    encoded, made = tmp_path / "encoded", tmp_path / "made"
    argv = ["encode", str(session.workspace.images), str(encoded), "--image", image.digest, "--installed", str(wheel)]
    assert blob_recipes.main([*argv, "--unchecked"]) == 0
    site = tmp_path / "site"
    find = ["find", str(encoded), str(tmp_path / "found"), str(site)]
    assert blob_recipes.main(find) == 1
    assert f"missing {hashlib.sha256(GPU).hexdigest()} {len(GPU)}" in capsys.readouterr().out
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert blob_recipes.main(find) == 0
    assert blob_recipes.main(["decode", str(encoded), str(made), "--inventory", str(tmp_path / "found")]) == 0
    assert all(blob(made, part.digest).is_file() for part in image_blobs(image))


def test_a_file_of_the_receiver_that_changed(
    tmp_path: Path, inventory: Path, encoded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "receiver" / "lib" / "torch.so"
    argv = ["decode", str(encoded), str(tmp_path / "made"), "--inventory", str(inventory)]
    path.write_bytes(bytes(len(GPU)))
    assert blob_recipes.main(argv) == 1
    assert f"{path} has changed" in capsys.readouterr().err
    path.unlink()
    assert blob_recipes.main(argv) == 1
    assert f"1 files are missing or have another size: {path}" in capsys.readouterr().err


def test_a_part_that_was_damaged(tmp_path: Path, encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert blob_recipes.main(["pack", str(encoded), str(tmp_path / "parts"), "--mib", "1"]) == 0
    (tmp_path / "parts" / "0001").write_bytes(b"damaged")
    assert blob_recipes.main(["decode", str(tmp_path / "parts"), str(tmp_path / "made")]) == 1
    assert f"{tmp_path / 'parts' / '0001'} is damaged: send it again" in capsys.readouterr().err

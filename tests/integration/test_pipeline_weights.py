"""A model whose weights do not compress: its layer consists of the cache's files, and nobody who gets it can tell."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from project import CELL, assert_refused

from builder.host.config import Config
from builder.remote.registry.registry_client import connect

if TYPE_CHECKING:
    from pathlib import Path

    from project import Project


SIZE = 12_000_000
PATH = "models/tiny/model.safetensors"


@pytest.fixture
def weighty(project: Project) -> Project:
    """A project whose model has weights that do not compress."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [SIZE], "data_offsets": [0, SIZE]}}).encode()
    content = struct.pack("<Q", len(header)) + header + os.urandom(SIZE)
    (project.model / "model.safetensors").write_bytes(content)
    return project


def stored(project: Project) -> Path:
    """Return the weights' file in the cache."""
    sha256 = hashlib.sha256((project.model / "model.safetensors").read_bytes()).hexdigest()
    return project.cache / "models" / "sha256" / sha256[:2] / sha256


def model_layer(image: dict[str, Any]) -> dict[str, Any]:
    (layer,) = (layer for layer in image["layers"] if layer["size"] > SIZE and layer["size"] < SIZE + 100_000)
    return dict(layer)


def test_it_is_built_asked_and_pushed_without_a_second_copy(weighty: Project) -> None:
    done = weighty.run("recipe", "--push", "--json")
    assert done.code == 0, done.stderr
    layer = model_layer(weighty.record("build"))
    name = layer["digest"].partition(":")[2]
    assert layer["media_type"] == "application/vnd.oci.image.layer.v1.tar"
    assert not (weighty.cache / "images" / "blobs" / "sha256" / name).exists()

    client = connect(weighty.registry, Config())
    received = bytearray()
    client.get_blob(weighty.repository, layer["digest"], received.extend)
    with tarfile.open(fileobj=io.BytesIO(bytes(received))) as archive:
        file = archive.extractfile(PATH)
        assert file
        assert hashlib.sha256(file.read()).hexdigest() == stored(weighty).name

    done = weighty.run("build", "--verify", "--json")
    assert done.code == 0, done.stderr
    assert done.cells[CELL]["verified"] == done.cells[CELL]["digest"]


def test_what_was_lost_or_damaged_in_the_cache(weighty: Project) -> None:
    done = weighty.run("build", "--json")
    assert done.code == 0, done.stderr
    path = stored(weighty)
    path.unlink()
    done = weighty.run("build", "--json")
    assert (done.code, done.ran()) == (0, []), "what needs the weights fetches them"
    path.write_bytes(bytes(SIZE + 100))
    os.truncate(path, (weighty.model / "model.safetensors").stat().st_size)
    for verb in ("smoke", "recipe"):
        assert_refused(
            weighty.run(verb),
            6,
            "blob sha256:[0-9a-f]+ does not match its digest",
            path.name,
            f"render {weighty.name} --force",
        )
    path.unlink()
    done = weighty.run("smoke", "--json")
    assert done.code == 0, done.stderr
    assert path.is_file(), "fetched again"
    name = model_layer(weighty.record("build"))["digest"].partition(":")[2]
    assert not (weighty.cache / "images" / "blobs" / "sha256" / name).exists()

"""Bundles in the hands of other tools: Docker with both kinds of store, skopeo, oras, cosign, and a plain shell."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
import second_engine
from project import assert_refused
from proofs import call, key_pairs, keys, labels, oras_discover
from proven_folder import CELL, OWN, Folder
from publishing import push
from servers import registry

from builder.host import records
from builder.host.config import LayerCompression
from builder.host.records import as_bytes
from builder.image.oci.layout import blob, put_image
from builder.image.oci.pack import pack
from builder.model.publications import Publication, RegistryPublication

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proofs import Keys
    from servers import Registry

    from builder.model.images import Image

__all__ = ["key_pairs", "keys", "registry"]
NAME = f"jbuild/demo:{CELL}"


def tree(**files: bytes) -> list[bytes]:
    """Return a layer's tar archive."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return [output.getvalue()]


def make_image(layout: Path, *layers: list[bytes]) -> Image:
    """Put an image that engines can load into a layout."""
    kinds = (LayerCompression("gzip"), LayerCompression("zstd"))
    packed = [pack(layer, kind, layout, lambda _: None) for layer, kind in zip(layers, kinds, strict=True)]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Labels": dict(labels(OWN)), "Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in packed]},
    }
    return put_image(layout, as_bytes(config), [layer.blob for layer in packed], "linux/amd64")


@pytest.fixture
def work(tmp_path: Path, keys: Keys) -> Folder:
    """A project whose image engines can load; its evidence is signed."""
    image = make_image(tmp_path / "cache" / "images", tree(a=os.urandom(300_000)), tree(b=os.urandom(900_000)))
    folder = Folder(tmp_path, image=image)
    folder.settings(f'[publish]\ncosign-key = "{keys.private}"\n')
    return folder


def bundled(work: Folder, *options: str) -> Path:
    """Write a bundle and return its folder."""
    folder = work.root.parent / "carried"
    done = work.run("bundle", "demo", "--output", str(folder), *options)
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def classic_engine() -> Iterator[str]:
    """The address of an engine with Docker's classic store."""
    if not second_engine.can_run():
        pytest.skip("a second engine needs root and dockerd")
    with second_engine.running_engine(containerd=False) as running:
        yield running.host


@pytest.fixture(scope="module")
def containerd_engine() -> Iterator[str]:
    """The address of an engine with containerd's store."""
    if not second_engine.can_run():
        pytest.skip("a second engine needs root and dockerd")
    with second_engine.running_engine() as running:
        yield running.host


@pytest.fixture(params=["classic_engine", "containerd_engine"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty engine."""
    host: str = request.getfixturevalue(request.param)
    yield host
    for name in names(host):
        shell(f"docker image rm --force {name}", host)


def shell(command: str, host: str, code: int = 0) -> str:
    """Run a command of a shell with an engine; return what it printed."""
    environment = {**os.environ, "DOCKER_HOST": host}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def names(host: str) -> list[str]:
    """Return all images of an engine."""
    return shell("docker image ls --all --format '{{.Repository}}:{{.Tag}}'", host).split()


@pytest.mark.parametrize("options", [(), ("--split", "1M")])
def test_docker_loads_exactly_one_image(work: Folder, engine: str, options: tuple[str, ...]) -> None:
    folder = bundled(work, *options)
    shell(f"cat {folder}/parts/* | docker load" if options else f"tar -C {folder} -c . | docker load", engine)
    assert names(engine) == [NAME]
    found = json.loads(shell(f"docker image inspect {NAME}", engine))[0]
    assert found["Id"] in (work.image.digest, work.image.config.digest)
    shell(f"docker create --name bundle-test {NAME} && docker rm bundle-test", engine)


@pytest.mark.parametrize("options", [(), ("--split", "1M")])
def test_the_script_loads_it_and_leaves_nothing_else(work: Folder, engine: str, options: tuple[str, ...]) -> None:
    folder = bundled(work, *options)
    said = shell(f"sh {folder}/load.sh", engine)
    assert f"docker run --rm --name vllm --publish 127.0.0.1:8000:8000 --volume vllm-cache:/cache {NAME}" in said
    assert names(engine) == [NAME]
    # The evidence is no image of its own.
    for entry in json.loads((folder / "index.json").read_text())["manifests"][1:] if not options else ():
        shell(f"docker image inspect {entry['digest']}", engine, code=1)


def test_the_script_refuses_damaged_bundles(work: Folder, engine: str) -> None:
    folder = bundled(work)
    layer = blob(folder, work.image.layers[1].digest)
    layer.write_bytes(layer.read_bytes()[:-1])
    said = shell(f"sh {folder}/load.sh", engine, code=6)
    assert f"blobs/sha256/{layer.name}: FAILED" in said
    assert names(engine) == []


def test_the_script_says_what_the_engine_lacks(work: Folder, engine: str) -> None:
    folder = bundled(work, "--since", work.image.digest)
    said = shell(f"sh {folder}/load.sh", engine, code=7)
    assert f"must have the image {work.image.digest} already" in said
    assert names(engine) == []


def test_a_load_that_fails_leaves_the_name_to_its_image(work: Folder, engine: str, tmp_path: Path) -> None:
    folder = bundled(work, "--since", work.image.digest)
    shell(f"tar -cf - -T /dev/null | docker import - {NAME}", engine)
    before = image_id(engine)
    shell(f"sh {folder}/load.sh", engine, code=7)
    assert (names(engine), image_id(engine)) == ([NAME], before)
    # An engine that takes nothing at all.
    refusing = tmp_path / "refusing"
    refusing.write_text('#!/bin/sh\nif [ "$1" = load ]; then cat >/dev/null; exit 1; fi\nexec docker "$@"\n')
    refusing.chmod(0o755)
    shell(f"DOCKER={refusing} sh {folder}/load.sh", engine, code=7)
    assert (names(engine), image_id(engine)) == ([NAME], before)


def image_id(host: str) -> str:
    """Return the ID of the image that has the name."""
    return shell(f"docker image inspect --format '{{{{.Id}}}}' {NAME}", host).strip()


@pytest.mark.parametrize("engine", ["containerd_engine"], indirect=True)
def test_the_script_loads_an_update_where_the_engine_has_the_layers(work: Folder, engine: str) -> None:
    shell(f"sh {bundled(work)}/load.sh", engine)
    (work.root.parent / "carried").rename(work.root.parent / "earlier")
    shell(f"docker tag {NAME} earlier:1 && docker image rm {NAME}", engine)
    folder = bundled(work, "--since", work.image.digest)
    assert "can load it only into an engine with containerd's store" in (folder / "README.md").read_text()
    shell(f"sh {folder}/load.sh", engine)
    assert sorted(names(engine)) == ["earlier:1", NAME]


def test_skopeo_oras_and_cosign_read_it(work: Folder, keys: Keys, registry: Registry, tmp_path: Path) -> None:
    folder = bundled(work)
    place = f"{registry.host}/there/vllm"
    skopeo = ("skopeo", "copy", "--dest-tls-verify=false")
    call(*skopeo, f"oci:{folder}:{CELL}", f"docker://{place}:skopeo", folder=tmp_path)
    oras = ("oras", "copy", "--recursive", "--to-plain-http", "--from-oci-layout")
    call(*oras, f"{folder}:{CELL}", f"{place}:oras", folder=tmp_path)
    assert registry.tags("there/vllm") == {"skopeo": work.image.digest, "oras": work.image.digest}
    assert len(oras_discover(f"{place}@{work.image.digest}", tmp_path)) == 4
    checked = (f"--key={keys.public}", "--insecure-ignore-tlog=true")
    call("cosign", "verify", *checked, "--local-image", str(folder), folder=tmp_path)
    tag = work.image.digest.replace(":", "-") + ".sig"
    call(*skopeo, f"oci:{folder}:{tag}", f"docker://{place}:{tag}", folder=tmp_path)
    call("cosign", "verify", *checked, "--allow-http-registry", f"{place}@{work.image.digest}", folder=tmp_path)


def test_layers_of_an_image_in_a_registry_are_left_out(work: Folder, registry: Registry, tmp_path: Path) -> None:
    options = ("bundle", "demo", "--output", str(tmp_path / "b"), "--json", "--since")
    assert work.run("promote", "demo", "--to", registry.host).code == 0
    assert work.run(*options, f"{registry.host}/vllm:none").code == 11
    done = work.run(*options, f"{registry.host}/vllm:rc")
    assert done.code == 0, done.stderr
    assert set(done.json["missing"]) == {layer.digest for layer in work.image.layers}


def test_a_pruned_image_comes_from_its_registry(work: Folder, registry: Registry, tmp_path: Path) -> None:
    push(work.image, work.workspace.images, registry.host)
    before = content_of(bundled(work) / "blobs")
    blob(work.workspace.images, work.image.layers[0].digest).unlink()
    done = work.run("bundle", "demo", "--output", str(tmp_path / "b"))
    assert_refused(done, 6, "is missing", "jbuild build demo --force")
    there = RegistryPublication(
        repository=f"{registry.host}/vllm",
        digest=work.image.digest,
        tags=(),
        bytes_sent=0,
        bytes_mounted=0,
        bytes_there=0,
        seconds=0.0,
    )
    pushed = Publication(digest=work.image.digest, registries=(there,))
    records.write(work.workspace.cell("demo", CELL).record("push"), "x", pushed)
    (tmp_path / "carried").rename(tmp_path / "before")
    assert content_of(bundled(work) / "blobs") == before


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

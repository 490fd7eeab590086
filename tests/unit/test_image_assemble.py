"""Putting images together: what the Dockerfile's instructions would give, layer by layer and setting by setting."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import zstandard
from factories import make_plan, make_settings

from builder.host.config import Config
from builder.host.tarball import file_of
from builder.image.build.reproduce import first_difference
from builder.image.layers.layer import FilesLayer
from builder.image.layers.pack_layers import pack_layers
from builder.image.oci.assemble import assemble, own_layers
from builder.image.oci.layout import blob, is_whole, layer_content, put, read_config, read_image

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.images import Image, Plan

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
BEFORE: dict[str, Any] = {
    "Env": ["PATH=/usr/bin", "LANG=C", "ODD=a=b"],
    "Cmd": ["bash"],
    "Labels": {"of": "the base", "io.jbuild.recipe": "other"},
    "ExposedPorts": {"22/tcp": {}},
    "User": "root",
}


def image_of(session: Session, *layers: tuple[bytes, str], config: dict[str, Any] | None = None) -> Image:
    """Write an image whose layers are given with their media types."""
    layout = session.workspace.images
    blobs = [put(layout, content, kind) for content, kind in layers]
    document = {
        "architecture": "arm64",
        "os": "linux",
        "config": BEFORE if config is None else config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{n:064}" for n in range(len(layers))]},
        "history": [{"created_by": "FROM"}],
        "variant": "v8",
    }
    own = put(layout, json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json")
    described = [{"mediaType": d.media_type, "digest": d.digest, "size": d.size} for d in (own, *blobs)]
    manifest = {"schemaVersion": 2, "config": described[0], "layers": described[1:]}
    return read_image(layout, put(layout, json.dumps(manifest).encode(), "m").digest, "linux/arm64")


def put_together(system: Image, session: Session, plan: Plan | None = None) -> Image:
    """Pack two layers onto a system image."""
    layers = [FilesLayer(name=name, entries=(file_of(f"opt/{name}", name.encode()),)) for name in PLAN.layers]
    return assemble(plan or PLAN, pack_layers(layers, None, "one", session), system, session.workspace.images)


PLAN = make_plan(layers=("environment-1", "libraries-2"))


def test_layers_lie_on_those_of_the_system(session: Session) -> None:
    system = image_of(session, (b"base", GZIP))
    image = put_together(system, session)
    assert image.layers[0] == system.layers[0]
    assert [layer.media_type for layer in image.layers] == [GZIP, ZSTD, ZSTD]
    assert is_whole(session.workspace.images, image)
    config = read_config(session.workspace.images, image)
    contents = [b"".join(layer_content(layer, session.workspace.images)) for layer in image.layers[1:]]
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{0:064}", *digests]
    made = [step["created_by"] for step in config["history"] if not step.get("empty_layer")]
    assert made == ["FROM", "COPY layers/environment-1/ /", "COPY layers/libraries-2/ /"]
    assert (config["architecture"], config["os"], config["variant"]) == ("arm64", "linux", "v8")


def test_settings_win_over_those_of_the_base(session: Session) -> None:
    image = put_together(image_of(session), session)
    config = read_config(session.workspace.images, image)["config"]
    assert config["Env"] == ["PATH=/opt/venv/bin:/usr/bin", "LANG=C", "ODD=a=b"]
    assert config["Labels"] == {"of": "the base", "io.jbuild.recipe": "demo"}
    assert image.labels == (("io.jbuild.recipe", "demo"), ("of", "the base"))
    assert "Cmd" not in config
    assert config["ExposedPorts"] == {"22/tcp": {}, "8000/tcp": {}}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("10001:10001", "/home/vllm", "SIGTERM")
    assert config["Healthcheck"]["StartPeriod"] == 600 * 10**9
    assert config["Entrypoint"] == list(PLAN.settings.entrypoint)


def test_a_base_that_says_nothing(session: Session) -> None:
    image = put_together(image_of(session, config={}), session)
    assert read_config(session.workspace.images, image)["config"]["ExposedPorts"] == {"8000/tcp": {}}


def test_the_same_parts_give_the_same_digest(session: Session) -> None:
    system = image_of(session, (b"base", GZIP))
    image = put_together(system, session)
    assert put_together(system, session) == image
    for change in ({"port": 9000}, {"environment": ()}, {"labels": ()}, {"start_period_s": 1}):
        other = put_together(system, session, replace(PLAN, settings=make_settings(**change)))
        assert other.digest != image.digest
        assert other.layers == image.layers
        difference = first_difference(image, session.workspace.images, other, session.workspace.images)
        assert difference
        assert difference.layer == "the configuration"


def test_gzip_where_it_is_asked_for(session: Session) -> None:
    own = replace(session, config=Config(compression="gzip"))
    image = put_together(image_of(own), own)
    assert {layer.media_type for layer in image.layers} == {GZIP}


def test_what_buildkit_compressed_is_packed_anew_and_the_bases_layers_stay(session: Session) -> None:
    content = b"packages" * 1000
    base = image_of(session, (b"base", GZIP))
    found = []
    for level in (1, 19):
        compressed = zstandard.ZstdCompressor(level=level).compress(content)
        system = image_of(session, (b"base", GZIP), (compressed, ZSTD))
        found.append(own_layers(system, base, "one", session))
    assert found[0] == found[1]
    assert found[0].layers[0] == base.layers[0]
    assert b"".join(layer_content(found[0].layers[1], session.workspace.images)) == content
    assert blob(session.workspace.images, found[0].digest).is_file()

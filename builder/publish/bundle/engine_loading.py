"""Loads a bundle's image into the engine; layers that the bundle lacks are those of the engine's other images."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docker.errors import NotFound

from builder.errors import EngineError
from builder.host.engine.sdk_errors import engine_errors
from builder.host.files import temp_folder
from builder.image.oci.engine_load import EngineBlobs, loaded, reference_of
from builder.image.oci.layout import read_config
from builder.model.images import proven_name
from builder.publish.bundle.engine_layers import EngineLayers
from builder.publish.bundle.lacking_blobs import lacking_words

if TYPE_CHECKING:
    from pathlib import Path

    from docker import DockerClient

    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.publish.bundle.opened import OpenBundle


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineImage:
    """A bundle's image in an engine: its name, the engine's address, and whether it was there before."""

    name: str
    endpoint: str
    present: bool


def load_into_engine(bundle: OpenBundle, engine: Engine, session: Session) -> EngineImage:
    """Load a bundle's image into the engine, under the name of its cell.

    The engine holds the whole image under that name, or nothing new: another image keeps the name until then.

    Raises:
        EngineError: the engine does not answer, cannot load the image, or lacks blobs that the bundle expects.
        DiskError: layers of the engine do not fit into the cache.
    """
    name = proven_name(bundle.bundle.recipe, bundle.bundle.cell)
    with engine_errors(engine), closing(engine.client()) as client:
        present = reference_of(client, bundle.bundle.image) is not None
        if not (present and _is_named(client, name, bundle)):
            with temp_folder(session.workspace.bundles, "layers") as folder:
                blobs = EngineBlobs() if present else _blobs(client, engine, bundle, folder)
                with loaded(bundle.bundle.image, bundle.root, engine, session.console, keep_as=name, blobs=blobs):
                    pass
    return EngineImage(name=name, endpoint=engine.endpoint, present=present)


def _is_named(client: DockerClient, name: str, bundle: OpenBundle) -> bool:
    image = bundle.bundle.image
    try:
        return client.images.get(name).id in (image.digest, image.config.digest)
    except NotFound:
        return False


def _blobs(client: DockerClient, engine: Engine, bundle: OpenBundle, folder: Path) -> EngineBlobs:
    """Return the layers that the bundle lacks, as the engine has them.

    Raises:
        EngineError: the engine lacks some of them.
    """
    missing = {blob.digest for blob in bundle.bundle.missing}
    if not missing:
        return EngineBlobs()
    image = bundle.bundle.image
    diff_ids = read_config(bundle.root, image)["rootfs"]["diff_ids"]
    expected = {
        number: (layer, diff_id)
        for number, (layer, diff_id) in enumerate(zip(image.layers, diff_ids, strict=True))
        if layer.digest in missing
    }
    layers = EngineLayers(client)
    lacking = [layer for layer, diff_id in expected.values() if diff_id not in layers.images]
    if lacking:
        message = f"the engine lacks {lacking_words(lacking, bundle.bundle)}"
        hint = "load that image first, or make the bundle without --since"
        raise EngineError(message, where=engine.endpoint, hint=hint)
    # Engines without containerd's store know a layer by all layers below it, too.
    common = len(diff_ids) if engine.containerd_store else layers.common(diff_ids)
    saved = {layer.digest: diff_id for number, (layer, diff_id) in expected.items() if number >= common}
    files = layers.save(set(saved.values()), folder)
    return EngineBlobs(
        present=frozenset(missing - saved.keys()),
        uncompressed={digest: files[diff_id] for digest, diff_id in saved.items()},
    )

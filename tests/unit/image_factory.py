"""Images in the cache, made from locks."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from factories import make_lock, make_locked_wheel

from builder.host import records
from builder.lock import lockfile
from builder.model.images import Descriptor, Image

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.locks import Lock


LAYERS = {
    "ADD rootfs.tar /": b"base" * 100,
    "RUN /bin/sh /run/jbuild/install.sh 1": b"system",
    "COPY layers/torch-1/ / #": b"t" * 500,
}
ONE = make_lock(
    make_locked_wheel("torch", "2.10.0", size=400_000_000),
    make_locked_wheel("numpy", "2.2.6"),
    make_locked_wheel("gone", "1.0"),
)


def build(session: Session, lock: Lock, layers: dict[str, bytes], *, of: Lock | None = None) -> Image:
    """Put an image into the cache's layout, made from a lock, and its record into the cell's folder."""
    layout = session.workspace.images

    def put(content: bytes, kind: str) -> Descriptor:
        name = hashlib.sha256(content).hexdigest()
        path = layout / "blobs" / "sha256" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return Descriptor(media_type=f"application/vnd.oci.image.{kind}", digest=f"sha256:{name}", size=len(content))

    own = of or lock
    labels = {
        "io.jbuild.recipe": own.recipe,
        "io.jbuild.cell": own.cell,
        "io.jbuild.lock": lockfile.content(own),
        "io.jbuild.torch": own.versions.get("torch", ""),
        "io.jbuild.python": own.platform.python,
        "org.opencontainers.image.base.name": own.base.name,
        "org.opencontainers.image.base.digest": own.base.digest,
    }
    history: list[dict[str, object]] = [{"created_by": made} for made in layers]
    history.insert(1, {"created_by": "ENV A=b", "empty_layer": True})
    config = {"config": {"Labels": labels}, "history": history}
    described = [put(content, "layer.v1.tar+zstd") for content in layers.values()]
    configuration = put(json.dumps(config).encode(), "config.v1+json")
    entries = [{"mediaType": d.media_type, "digest": d.digest, "size": d.size} for d in described]
    own_entry = {"mediaType": configuration.media_type, "digest": configuration.digest, "size": configuration.size}
    manifest = put(json.dumps({"config": own_entry, "layers": entries}).encode(), "manifest.v1+json")
    image = Image(platform="linux/arm64", manifest=manifest, config=configuration, layers=tuple(described), labels=())
    records.write(session.workspace.cell(lock.recipe, lock.cell).record("build"), "x", image)
    return image

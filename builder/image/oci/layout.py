"""Reads images from the OCI layout that builds are exported to."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import IO, TYPE_CHECKING, Any, cast

from builder.errors import BuildError, IntegrityError
from builder.host.files import disk_errors, mark_used, move, sha256_of_rest, write_bytes
from builder.host.records import as_bytes
from builder.image.oci import virtual_blob
from builder.model.images import Descriptor, Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BLOCK = 1 << 20
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def blob(layout: Path, digest: str) -> Path:
    """Return the file of a blob. A blob that consists of files elsewhere has none: see `open_blob`."""
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def open_blob(layout: Path, digest: str) -> IO[bytes]:
    """Open a blob for reading, from any place on.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    try:
        return blob(layout, digest).open("rb")
    except FileNotFoundError:
        return virtual_blob.open_pieces(layout, digest)


def mark_blob_used(layout: Path, digest: str) -> None:
    """Note that a blob is in use, with whatever it consists of."""
    if not mark_used(blob(layout, digest)):
        virtual_blob.mark_pieces_used(layout, digest)


def read_image(layout: Path, digest: str, platform: str) -> Image:
    """Return the image of a manifest's digest.

    Raises:
        BuildError: the layout lacks it.
    """
    manifest = _json(layout, digest)
    try:
        config = _json(layout, manifest["config"]["digest"])
        size = blob(layout, digest).stat().st_size
        labels = config.get("config", {}).get("Labels") or {}
        return Image(
            platform=platform,
            manifest=Descriptor(media_type=manifest.get("mediaType", _MANIFEST), digest=digest, size=size),
            config=_descriptor(manifest["config"]),
            layers=tuple(_descriptor(layer) for layer in manifest["layers"]),
            labels=tuple(sorted(labels.items())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        hint = "build it again with --force, with another builder if it stays so"
        raise BuildError(f"{digest} is no manifest of one image", where=str(layout), hint=hint) from error


def read_config(layout: Path, image: Image) -> dict[str, Any]:
    """Return an image's configuration.

    Raises:
        BuildError: the layout lacks it.
    """
    return _json(layout, image.config.digest)


def put(layout: Path, content: bytes, media_type: str) -> Descriptor:
    """Write a blob and return what it is known by.

    Raises:
        DiskError: it cannot be written.
    """
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    write_bytes(blob(layout, digest), content)
    return Descriptor(media_type=media_type, digest=digest, size=len(content))


def layer_content(layer: Descriptor, layout: Path) -> Iterator[bytes]:
    """Yield what is compressed in a layer's blob.

    Raises:
        OSError, ValueError: the blob cannot be read.
    """
    with open_blob(layout, layer.digest) as raw, unpacked(raw, layer.media_type) as stream:
        while block := stream.read(_BLOCK):
            yield block


def unpacked(raw: IO[bytes], media_type: str) -> IO[bytes]:
    """Return the stream that is compressed in a layer's blob."""
    if media_type.endswith("zstd"):
        import zstandard  # noqa: PLC0415  # only a difference needs it

        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if media_type.endswith("gzip") else raw


def put_image(layout: Path, config: Descriptor, layers: Sequence[Descriptor]) -> Descriptor:
    """Write the manifest of an image and return what it is known by.

    Raises:
        DiskError: it cannot be written.
    """
    described = [{"mediaType": part.media_type, "digest": part.digest, "size": part.size} for part in (config, *layers)]
    document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described[0], "layers": described[1:]}
    return put(layout, as_bytes(document), _MANIFEST)


def take_blobs(exported: Path, layout: Path) -> None:
    """Move the blobs of a layout into another; those that are there are replaced by the same.

    Raises:
        DiskError: they cannot be moved.
    """
    folder = layout / "blobs" / "sha256"
    with disk_errors(layout):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (exported / "blobs" / "sha256").iterdir():
            move(path, folder / path.name)


def parts(image: Image) -> tuple[Descriptor, ...]:
    """Return an image's blobs, each once: two layers can be the same."""
    return tuple({part.digest: part for part in (image.manifest, image.config, *image.layers)}.values())


def is_whole(layout: Path, image: Image) -> bool:
    """Return whether every blob of an image is there with its size."""
    return not damaged(layout, image)


def damaged(layout: Path, image: Image) -> tuple[Path, ...]:
    """Return the files of an image's blobs that are absent or not of their size."""
    return tuple(blob(layout, part.digest) for part in parts(image) if not is_present(layout, part))


def fault(layout: Path, digest: str) -> IntegrityError | None:
    """Read a blob through, and return what is wrong if its bytes are not those of its digest.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    with open_blob(layout, digest) as file:
        if f"sha256:{sha256_of_rest(file)}" == digest:
            return None
    weights = virtual_blob.changed_file(layout, digest)
    again = "run `jbuild render RECIPE --force`, then the same command again" if weights else "build it with --force"
    return IntegrityError(
        f"the built image's blob {digest} has changed on disk",
        where=str(weights or blob(layout, digest)),
        hint=f"remove the file; {again}",
    )


def mark_image_used(layout: Path, image: Image) -> None:
    """Note that an image is in use: its manifest, and the files elsewhere that layers of it consist of."""
    mark_used(blob(layout, image.digest))
    for layer in image.layers:
        mark_blob_used(layout, layer.digest)


def is_present(layout: Path, part: Descriptor) -> bool:
    """Return whether a blob is there with its size."""
    path = blob(layout, part.digest)
    if path.is_file():
        return path.stat().st_size == part.size
    found = virtual_blob.read(layout, part.digest)
    return found is not None and found.size == part.size


def _json(layout: Path, digest: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(blob(layout, digest).read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError(
            f"the built image {digest} is not in the layout", where=str(layout), hint="build it again with --force"
        ) from error
    return found


def _descriptor(data: dict[str, Any]) -> Descriptor:
    return Descriptor(media_type=data["mediaType"], digest=data["digest"], size=data["size"])

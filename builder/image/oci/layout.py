"""Reads and writes images in the OCI layout of the cache."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

from builder.errors import BuildError, IntegrityError
from builder.host.files import disk_errors, mark_used, move, sha256_of_rest, write_bytes
from builder.host.records import as_bytes
from builder.image.oci import virtual_blob
from builder.model.images import Descriptor, Image

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

# Makes missing blobs, given their digests; skips those that it cannot make.
MakeBlobs: TypeAlias = "Callable[[Collection[str]], object]"
_BLOCK = 1 << 20
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"


def blob(layout: Path, digest: str) -> Path:
    """Return the file of a blob. A virtual blob, made of other files, has none: see `open_blob`."""
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def open_blob(layout: Path, digest: str) -> IO[bytes]:
    """Open a blob for reading; the file is seekable.

    Raises:
        OSError: it is missing or cannot be read.
    """
    try:
        return blob(layout, digest).open("rb")
    except FileNotFoundError:
        return virtual_blob.open_virtual_blob(layout, digest)


def mark_blob_used(layout: Path, digest: str) -> None:
    """Mark a blob as used, with the files of a virtual one."""
    if not mark_used(blob(layout, digest)):
        virtual_blob.mark_files_used(layout, digest)


def read_image(layout: Path, digest: str, platform: str) -> Image:
    """Return the image with a manifest's digest.

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
        hint = "build it again with --force, or with another builder"
        raise BuildError(f"{digest} is not a manifest of one image", where=str(layout), hint=hint) from error


def read_config(layout: Path, image: Image) -> dict[str, Any]:
    """Return an image's configuration.

    Raises:
        BuildError: the layout lacks it.
    """
    return _json(layout, image.config.digest)


def put(layout: Path, content: bytes, media_type: str) -> Descriptor:
    """Write a blob and return its descriptor.

    Raises:
        DiskError: it cannot be written.
    """
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    write_bytes(blob(layout, digest), content)
    return Descriptor(media_type=media_type, digest=digest, size=len(content))


def layer_content(layer: Descriptor, layout: Path) -> Iterator[bytes]:
    """Yield the uncompressed content of a layer's blob.

    Raises:
        OSError, ValueError: the blob cannot be read.
    """
    with open_blob(layout, layer.digest) as raw, unpacked(raw, layer.media_type) as stream:
        while block := stream.read(_BLOCK):
            yield block


def unpacked(raw: IO[bytes], media_type: str) -> IO[bytes]:
    """Return the uncompressed stream of a layer's blob."""
    if media_type.endswith("zstd"):
        import zstandard  # noqa: PLC0415  # only comparisons need it

        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if media_type.endswith("gzip") else raw


def put_image(layout: Path, config: bytes, layers: Sequence[Descriptor], platform: str) -> Image:
    """Write the configuration and the manifest of an image and return the image.

    Raises:
        DiskError: they cannot be written.
    """
    described = [
        {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
        for descriptor in (put(layout, config, _CONFIG), *layers)
    ]
    document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described[0], "layers": described[1:]}
    return read_image(layout, put(layout, as_bytes(document), _MANIFEST).digest, platform)


def take_blobs(exported: Path, layout: Path) -> None:
    """Move the blobs of a layout into another, over equal ones.

    Raises:
        DiskError: they cannot be moved.
    """
    folder = layout / "blobs" / "sha256"
    with disk_errors(layout):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (exported / "blobs" / "sha256").iterdir():
            move(path, folder / path.name)


def image_blobs(image: Image) -> tuple[Descriptor, ...]:
    """Return an image's blobs without duplicates: two layers can be equal."""
    return tuple(
        {descriptor.digest: descriptor for descriptor in (image.manifest, image.config, *image.layers)}.values()
    )


def is_whole(layout: Path, image: Image) -> bool:
    """Return whether all blobs of an image exist with the right size."""
    return not absent_blobs(layout, image)


def absent_blobs(layout: Path, image: Image) -> tuple[Descriptor, ...]:
    """Return the blobs of an image that are missing or have the wrong size."""
    return tuple(descriptor for descriptor in image_blobs(image) if not is_present(layout, descriptor))


def absence(layout: Path, digest: str) -> IntegrityError:
    """Return the error about a blob that is missing or has the wrong size."""
    path = blob(layout, digest)
    state = "damaged" if path.is_file() else "missing"
    hint = "build it again: `jbuild build RECIPE --force`"
    return IntegrityError(f"the image's blob {digest} is {state} in the cache", where=str(path), hint=hint)


def find_corruption(layout: Path, digest: str) -> IntegrityError | None:
    """Read a whole blob, and return an error if it does not match its digest.

    Raises:
        OSError: it is missing or cannot be read.
    """
    with open_blob(layout, digest) as file:
        if f"sha256:{sha256_of_rest(file)}" == digest:
            return None
    weights = virtual_blob.changed_file(layout, digest)
    again = "run `jbuild render RECIPE --force`, then the same command again" if weights else "build with --force"
    return IntegrityError(
        f"the image's blob {digest} does not match its digest",
        where=str(weights or blob(layout, digest)),
        hint=f"remove the file, then {again}",
    )


def mark_image_used(layout: Path, image: Image) -> None:
    """Mark an image as used: its manifest, and the blobs of its layers."""
    mark_used(blob(layout, image.digest))
    for layer in image.layers:
        mark_blob_used(layout, layer.digest)


def is_present(layout: Path, descriptor: Descriptor) -> bool:
    """Return whether a blob exists with the right size."""
    path = blob(layout, descriptor.digest)
    if path.is_file():
        return path.stat().st_size == descriptor.size
    virtual = virtual_blob.read(layout, descriptor.digest)
    return virtual is not None and virtual.size == descriptor.size


def _json(layout: Path, digest: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(blob(layout, digest).read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError(
            f"the image {digest} is not in the layout", where=str(layout), hint="build it again with --force"
        ) from error
    return document


def _descriptor(data: dict[str, Any]) -> Descriptor:
    return Descriptor(media_type=data["mediaType"], digest=data["digest"], size=data["size"])

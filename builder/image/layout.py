"""Reads images from the OCI layout that builds are exported to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError
from builder.image.model import Image
from builder.registry.model import Descriptor

if TYPE_CHECKING:
    from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def blob(layout: Path, digest: str) -> Path:
    """Return the file of a blob."""
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


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


def parts(image: Image) -> tuple[Descriptor, ...]:
    """Return an image's blobs, each once: two layers can be the same."""
    return tuple({part.digest: part for part in (image.manifest, image.config, *image.layers)}.values())


def is_whole(layout: Path, image: Image) -> bool:
    """Return whether every blob of an image is there with its size."""
    return not damaged(layout, image)


def damaged(layout: Path, image: Image) -> tuple[Path, ...]:
    """Return the files of an image's blobs that are absent or not of their size."""
    return tuple(blob(layout, part.digest) for part in parts(image) if not is_present(layout, part))


def is_present(layout: Path, part: Descriptor) -> bool:
    """Return whether a blob is there with its size."""
    path = blob(layout, part.digest)
    return path.is_file() and path.stat().st_size == part.size


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

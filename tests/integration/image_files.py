"""The files of built images, read from their layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.image.build.reproduce import members

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.images import Image


def merged(image: Image, layout: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of every file in the layers above the base, the highest layer's word first."""
    found: dict[str, dict[str, Any]] = {}
    for layer in image.layers[1:]:
        with members(layer, layout) as files:
            found |= {file["name"].rstrip("/"): file for file in files if file["name"].rstrip("/") not in ("", "home")}
    return found

"""Finds the first difference of two images in OCI layouts: layer, file and attribute."""

from __future__ import annotations

import hashlib
import json
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from builder.image.oci.layout import blob, open_blob, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.images import Descriptor, Image

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutDifference:
    """A difference of two images. `layer` is its instruction; `file` is None if no file differs."""

    layer: str
    what: str
    file: str | None = None

    @property
    def words(self) -> str:
        """The difference as a sentence."""
        return f"{self.layer}: {self.file}: {self.what}" if self.file else f"{self.layer}: {self.what}"


def first_difference(
    first_image: Image, first_layout: Path, second_image: Image, second_layout: Path
) -> LayoutDifference | None:
    """Return the first difference of two images, lowest layer first, or None if their digests are equal.

    Raises:
        OSError, ValueError, tarfile.TarError: a blob cannot be read.
    """
    if first_image.digest == second_image.digest:
        return None
    first, second = _config(first_image, first_layout), _config(second_image, second_layout)
    names = _layer_names(first)
    for index, (a, b) in enumerate(zip_longest(first_image.layers, second_image.layers)):
        if a is None or b is None:
            return LayoutDifference(layer=f"layer {index + 1}", what="only one of the images has it")
        if a.digest != b.digest:
            name = names[index] if index < len(names) else f"layer {index + 1}"
            return _in_layer(name, (a, first_layout), (b, second_layout))
    return _in_config(first, second)


def _config(image: Image, layout: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(blob(layout, image.config.digest).read_bytes())
    return config


def _layer_names(config: dict[str, Any]) -> list[str]:
    """Return the instruction of each layer from the image's history."""
    instructions = [step.get("created_by") or "" for step in config.get("history") or () if not step.get("empty_layer")]
    return [
        " ".join(text.removesuffix("# buildkit").split())[:120] or f"layer {i + 1}"
        for i, text in enumerate(instructions)
    ]


def _in_layer(
    name: str, first_layer: tuple[Descriptor, Path], second_layer: tuple[Descriptor, Path]
) -> LayoutDifference:
    with members(*first_layer) as first, members(*second_layer) as second:
        for a, b in zip_longest(first, second):
            if a == b:
                continue
            if a is None or b is None or a["name"] != b["name"]:
                only = min((member["name"] for member in (a, b) if member), default="")
                return LayoutDifference(layer=name, file=f"/{only}", what="only in one image, or in another order")
            differing = [f"{key} {a[key]} and {b[key]}" for key in a if a[key] != b[key]]
            return LayoutDifference(layer=name, file=f"/{a['name']}", what=", ".join(differing))
    return LayoutDifference(layer=name, what="the same files, compressed differently")


@contextmanager
def members(layer: Descriptor, layout: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield the attributes of each file of a layer, in the layer's order; contents by their sha256."""
    with (
        open_blob(layout, layer.digest) as raw,
        unpacked(raw, layer.media_type) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        yield (_attributes(archive, member) for member in archive)


def _attributes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
    file = archive.extractfile(member) if member.isreg() else None
    digest = hashlib.sha256()
    while file and (block := file.read(_BLOCK)):
        digest.update(block)
    return {
        "name": member.name,
        "type": member.type.decode(),
        "mode": oct(member.mode),
        "owner": f"{member.uid}:{member.gid}",
        "time": member.mtime,
        "size": member.size,
        "target": member.linkname,
        "sha256": digest.hexdigest() if file else "",
        "extended attributes": {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")},
    }


def _in_config(first: dict[str, Any], second: dict[str, Any]) -> LayoutDifference:
    for key in sorted({*first, *second}):
        if first.get(key) != second.get(key):
            inside = _keys(first.get(key), second.get(key))
            return LayoutDifference(layer="the configuration", what=f"{key}{inside} differs")
    return LayoutDifference(layer="the manifest", what="differs")


def _keys(first: object, second: object) -> str:
    if not isinstance(first, dict) or not isinstance(second, dict):
        return ""
    changed = [str(key) for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
    return f".{changed[0]}"

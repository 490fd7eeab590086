"""Finds the first thing in which two images in OCI layouts differ: layer, file, and what of it."""

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
    """Where two images part. `layer` is the instruction that made it; `file` is absent where no file differs."""

    layer: str
    what: str
    file: str | None = None

    @property
    def words(self) -> str:
        """The difference as people read it."""
        return f"{self.layer}: {self.file}: {self.what}" if self.file else f"{self.layer}: {self.what}"


def first_difference(one: Image, its_layout: Path, other: Image, other_layout: Path) -> LayoutDifference | None:
    """Return the first difference of two images, lowest layer first, or None if their digests are the same.

    Raises:
        OSError, ValueError, tarfile.TarError: a blob cannot be read.
    """
    if one.digest == other.digest:
        return None
    first, second = _config(one, its_layout), _config(other, other_layout)
    names = _layer_names(first)
    for index, (a, b) in enumerate(zip_longest(one.layers, other.layers)):
        if a is None or b is None:
            return LayoutDifference(layer=f"layer {index + 1}", what="only one of the two images has it")
        if a.digest != b.digest:
            name = names[index] if index < len(names) else f"layer {index + 1}"
            return _in_layer(name, (a, its_layout), (b, other_layout))
    return _in_config(first, second)


def _config(image: Image, layout: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blob(layout, image.config.digest).read_bytes())
    return found


def _layer_names(config: dict[str, Any]) -> list[str]:
    """Return what made each layer, as the image's history has it."""
    made = [step.get("created_by") or "" for step in config.get("history") or () if not step.get("empty_layer")]
    return [" ".join(text.removesuffix("# buildkit").split())[:120] or f"layer {i + 1}" for i, text in enumerate(made)]


def _in_layer(name: str, one: tuple[Descriptor, Path], other: tuple[Descriptor, Path]) -> LayoutDifference:
    with members(*one) as first, members(*other) as second:
        for a, b in zip_longest(first, second):
            if a == b:
                continue
            if a is None or b is None or a["name"] != b["name"]:
                only = min((each["name"] for each in (a, b) if each), default="")
                return LayoutDifference(
                    layer=name, file=f"/{only}", what="is in one of the two only, or in another order"
                )
            parts = [f"{key} {a[key]} and {b[key]}" for key in a if a[key] != b[key]]
            return LayoutDifference(layer=name, file=f"/{a['name']}", what=", ".join(parts))
    return LayoutDifference(layer=name, what="the same files, compressed in another way")


@contextmanager
def members(layer: Descriptor, layout: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Give what is known of each file of a layer, in the order of the layer; contents by their sha256."""
    with (
        open_blob(layout, layer.digest) as raw,
        unpacked(raw, layer.media_type) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        yield (_facts(archive, member) for member in archive)


def _facts(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, Any]:
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


def _in_config(one: dict[str, Any], other: dict[str, Any]) -> LayoutDifference:
    for part in sorted({*one, *other}):
        if one.get(part) != other.get(part):
            inside = _keys(one.get(part), other.get(part))
            return LayoutDifference(layer="the configuration", what=f"{part}{inside} is not the same")
    return LayoutDifference(layer="the manifest", what="is not the same")


def _keys(one: object, other: object) -> str:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return ""
    changed = [str(key) for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return f".{changed[0]}"

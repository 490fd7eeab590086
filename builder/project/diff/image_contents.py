"""Images as a comparison needs them: layers with their sizes, and what the labels tell."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import RecipeError, RegistryError
from builder.image.oci.layout import blob, read_image
from builder.project.diff.difference import ComparedPart, Layer
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import INDEXES, connect

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.config import Config
    from builder.remote.registry.registry_client import RegistryClient

_LONGEST_CONFIG = 8 << 20
_FOLDER = re.compile(r"COPY (?:--link )?layers/([^/\s]+)/ /")
_LABELLED = ("vllm", "torch", "python")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContents:
    """An image: its layers, everything a device pulls, what its labels tell, and the lock that it was made from."""

    name: str
    digest: str
    layers: tuple[Layer, ...]
    blobs: tuple[tuple[str, int], ...]
    labels: dict[str, str]

    @property
    def recipe(self) -> str | None:
        """The recipe that it was made from."""
        return self.labels.get("io.jbuild.recipe")

    @property
    def cell(self) -> str | None:
        """The cell."""
        return self.labels.get("io.jbuild.cell")

    @property
    def lock(self) -> str | None:
        """The checksum of the lock's content."""
        return self.labels.get("io.jbuild.lock")

    @property
    def labelled(self) -> dict[str, Any]:
        """What the labels say of packages, models and base."""
        read = {name: self.labels.get(f"io.jbuild.{name}") for name in _LABELLED}
        name, digest = (self.labels.get(f"org.opencontainers.image.base.{key}") for key in ("name", "digest"))
        return {
            "packages": tuple(
                ComparedPart(name=key, version=value, content=value) for key, value in read.items() if value
            ),
            "partial": True,
            "base": ComparedPart(name=name, version=f"{name}@{digest[:19]}", content=digest)
            if name and digest
            else None,
        }


def of_layout(name: str, digest: str, layout: Path) -> ImageContents:
    """Return an image of the cache.

    Raises:
        BuildError: it is not there.
    """
    image = read_image(layout, digest, "")
    manifest = json.loads(blob(layout, digest).read_bytes())
    config = json.loads(blob(layout, image.config.digest).read_bytes())
    return _found(name, digest, manifest, config)


def of_registry(name: str, config: Config, architecture: str) -> ImageContents:
    """Return an image of a registry; of one for several architectures, the one that is asked for.

    Raises:
        RegistryError: the registry does not answer, lacks it, or holds something else under that name.
        RecipeError: it is no image name, or the image is for other architectures.
    """
    reference = Reference.parse(name)
    own = {Reference.parse(f"{registry}/x").host for registry in config.registries}
    client = connect(reference.host, config, own=own)
    try:
        content, descriptor = client.get_manifest(reference.repository, reference.tag_or_digest)
        document = json.loads(content)
        if descriptor.media_type in INDEXES:
            wanted = _of_architecture(document, architecture, name)
            content, descriptor = client.get_manifest(reference.repository, wanted)
            document = json.loads(content)
        return _found(name, descriptor.digest, document, _config(client, reference.repository, document))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            "the registry's manifest cannot be understood", where=name, hint="is it a container image?"
        ) from error


def _of_architecture(index: dict[str, Any], architecture: str, name: str) -> str:
    by_name: dict[str, str] = {}
    for entry in index["manifests"]:
        platform = entry.get("platform") or {}
        # Attestations lie beside images as entries of an unknown platform.
        if platform.get("os") != "unknown":
            by_name.setdefault(str(platform.get("architecture")), str(entry["digest"]))
    if architecture in by_name:
        return by_name[architecture]
    known = ", ".join(sorted(by_name)) or "nothing"
    raise RecipeError(f"the image is for {known}, not for {architecture}", where=name, hint="name it by its digest")


def _config(client: RegistryClient, repository: str, manifest: dict[str, Any]) -> dict[str, Any]:
    if int(manifest["config"]["size"]) > _LONGEST_CONFIG:
        raise ValueError("not a configuration")
    config: dict[str, Any] = json.loads(client.read_blob(repository, str(manifest["config"]["digest"])))
    return config


def _found(name: str, digest: str, manifest: dict[str, Any], config: dict[str, Any]) -> ImageContents:
    described = [(str(entry["digest"]), int(entry["size"])) for entry in manifest["layers"]]
    names = _names(config, len(described))
    own = (str(manifest["config"]["digest"]), int(manifest["config"]["size"]))
    labels = (config.get("config") or {}).get("Labels") or {}
    return ImageContents(
        name=name,
        digest=digest,
        layers=tuple(
            Layer(name=known, digest=blob_digest, size=size)
            for known, (blob_digest, size) in zip(names, described, strict=True)
        ),
        blobs=tuple({own[0]: own, **{entry[0]: entry for entry in described}}.values()),
        labels={str(key): str(value) for key, value in labels.items()},
    )


def _names(config: dict[str, Any], count: int) -> list[str]:
    """Return what made each layer, as far as the image's history tells."""
    steps = [str(step.get("created_by") or "") for step in config.get("history") or () if not step.get("empty_layer")]
    if len(steps) != count:
        return [f"layer {index}" for index in range(1, count + 1)]
    return [_name(step, index) for index, step in enumerate(steps, 1)]


def _name(step: str, index: int) -> str:
    folder = _FOLDER.search(step)
    if folder:
        return folder[1]
    if "/run/jbuild/install.sh" in step:
        return "system"
    return "base" if index == 1 else f"layer {index}"

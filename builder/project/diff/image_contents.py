"""Images to compare: layers with their sizes, and labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import RecipeError, RegistryError
from builder.image.oci.layout import blob, read_image
from builder.project.diff.difference import ComparedPart, Layer
from builder.remote.registry.base_lookup import connect_to
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import INDEXES

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.config import Config
    from builder.remote.registry.registry_client import RegistryClient

_LONGEST_CONFIG = 8 << 20
_FOLDER = re.compile(r"COPY (?:--link )?layers/([^/\s]+)/ /")
_LABELLED = ("vllm", "torch", "python")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContents:
    """An image: its layers, all blobs that a device pulls, and its labels."""

    name: str
    digest: str
    layers: tuple[Layer, ...]
    blobs: tuple[tuple[str, int], ...]
    labels: dict[str, str]

    @property
    def recipe(self) -> str | None:
        """The image's recipe."""
        return self.labels.get("io.jbuild.recipe")

    @property
    def cell(self) -> str | None:
        """The image's cell."""
        return self.labels.get("io.jbuild.cell")

    @property
    def lock(self) -> str | None:
        """The checksum of the image's lock."""
        return self.labels.get("io.jbuild.lock")

    @property
    def labelled(self) -> dict[str, Any]:
        """Packages and base from the labels, as fields of a `Subject`."""
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
        BuildError: it is not in the cache.
    """
    image = read_image(layout, digest, "")
    manifest = json.loads(blob(layout, digest).read_bytes())
    config = json.loads(blob(layout, image.config.digest).read_bytes())
    return _image(name, digest, manifest, config)


def of_registry(name: str, config: Config, architecture: str) -> ImageContents:
    """Return an image of a registry; of a multi-platform image, the one for the architecture.

    Raises:
        RegistryError: the registry does not answer, or has no such image.
        RecipeError: the name is not an image name, or the image is for other architectures.
    """
    reference = Reference.parse(name)
    client = connect_to(reference, config)
    try:
        content, descriptor = client.get_manifest(reference.repository, reference.tag_or_digest)
        document = json.loads(content)
        if descriptor.media_type in INDEXES:
            digest = _of_architecture(document, architecture, name)
            content, descriptor = client.get_manifest(reference.repository, digest)
            document = json.loads(content)
        return _image(name, descriptor.digest, document, _config(client, reference.repository, document))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            "the registry's manifest is not valid", where=name, hint="check that it is a container image"
        ) from error


def _of_architecture(index: dict[str, Any], architecture: str, name: str) -> str:
    by_name: dict[str, str] = {}
    for entry in index["manifests"]:
        platform = entry.get("platform") or {}
        # Attestations are entries of an unknown platform.
        if platform.get("os") != "unknown":
            by_name.setdefault(str(platform.get("architecture")), str(entry["digest"]))
    if architecture in by_name:
        return by_name[architecture]
    available = ", ".join(sorted(by_name)) or "nothing"
    raise RecipeError(f"the image is for {available}, not for {architecture}", where=name, hint="use its digest")


def _config(client: RegistryClient, repository: str, manifest: dict[str, Any]) -> dict[str, Any]:
    if int(manifest["config"]["size"]) > _LONGEST_CONFIG:
        raise ValueError("not a configuration")
    config: dict[str, Any] = json.loads(client.read_blob(repository, str(manifest["config"]["digest"])))
    return config


def _image(name: str, digest: str, manifest: dict[str, Any], config: dict[str, Any]) -> ImageContents:
    described = [(str(entry["digest"]), int(entry["size"])) for entry in manifest["layers"]]
    names = _names(config, len(described))
    config_blob = (str(manifest["config"]["digest"]), int(manifest["config"]["size"]))
    labels = (config.get("config") or {}).get("Labels") or {}
    return ImageContents(
        name=name,
        digest=digest,
        layers=tuple(
            Layer(name=layer_name, digest=blob_digest, size=size)
            for layer_name, (blob_digest, size) in zip(names, described, strict=True)
        ),
        blobs=tuple({config_blob[0]: config_blob, **{entry[0]: entry for entry in described}}.values()),
        labels={str(key): str(value) for key, value in labels.items()},
    )


def _names(config: dict[str, Any], count: int) -> list[str]:
    """Return a name for each layer, from the image's history if it is complete."""
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

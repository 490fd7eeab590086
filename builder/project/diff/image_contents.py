"""Images to compare: layers with their sizes, and labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import RecipeError, RegistryError
from builder.image.oci.layout import read_config, read_image
from builder.image.render.image_labels import slim_sizes
from builder.model.images import Descriptor, Image
from builder.project.diff.difference import ComparedPart, Layer
from builder.publish.image_source import labels_of
from builder.remote.registry.base_lookup import connect_in
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_client import INDEXES

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.remote.registry.registry_client import RegistryClient

_LONGEST_CONFIG = 8 << 20
_FOLDER = re.compile(r"COPY (?:--link )?layers/([^/\s]+)/ /")
_LABELLED = ("vllm", "torch", "python")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContents:
    """An image, and its layers with their names."""

    image: Image
    layers: tuple[Layer, ...]

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels."""
        return dict(self.image.labels)

    @property
    def fields(self) -> dict[str, Any]:
        """Layers, digest, slimmed wheels and all blobs that a device pulls, as fields of a `ComparedSide`."""
        blobs = {blob.digest: blob.size for blob in (self.image.config, *self.image.layers)}
        return {
            "layers": self.layers,
            "slimmed": slim_sizes(self.labels),
            "blobs": tuple(blobs.items()),
            "digest": self.image.digest,
        }

    @property
    def labelled(self) -> dict[str, Any]:
        """Packages and base from the labels, as fields of a `ComparedSide`."""
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


def of_layout(digest: str, layout: Path) -> ImageContents:
    """Return an image of the cache.

    Raises:
        BuildError: it is not in the cache.
    """
    image = read_image(layout, digest, "")
    return ImageContents(image=image, layers=layers_of(image, read_config(layout, image)))


def of_registry(name: str, session: Session, architecture: str) -> ImageContents:
    """Return an image of a registry; of a multi-platform image, the one for the architecture.

    Raises:
        RegistryError: the registry does not answer, or has no such image.
        RecipeError: the name is not an image name, or the image is for other architectures.
    """
    reference = Reference.parse(name)
    client = connect_in(session, reference)
    try:
        content, descriptor = client.get_manifest(reference.repository, reference.tag_or_digest)
        if descriptor.media_type in INDEXES:
            digest = _of_architecture(json.loads(content), architecture, name)
            content, descriptor = client.get_manifest(reference.repository, digest)
        return _of_manifest(content, descriptor, client, reference.repository)
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


def _of_manifest(content: bytes, manifest: Descriptor, client: RegistryClient, repository: str) -> ImageContents:
    document = json.loads(content)
    config, *layers = (
        Descriptor(media_type=str(blob.get("mediaType")), digest=str(blob["digest"]), size=int(blob["size"]))
        for blob in (document["config"], *document["layers"])
    )
    if config.size > _LONGEST_CONFIG:
        raise ValueError("not a configuration")
    settings = client.read_blob(repository, config.digest)
    image = Image(platform="", manifest=manifest, config=config, layers=tuple(layers), labels=labels_of(settings))
    return ImageContents(image=image, layers=layers_of(image, json.loads(settings)))


def layers_of(image: Image, config: dict[str, Any]) -> tuple[Layer, ...]:
    """Return an image's layers, with names from the history in its configuration if that is complete."""
    steps = [str(step.get("created_by") or "") for step in config.get("history") or () if not step.get("empty_layer")]
    names = [_name(step, index) for index, step in enumerate(steps, 1)]
    if len(names) != len(image.layers):
        names = [f"layer {index}" for index in range(1, len(image.layers) + 1)]
    named = zip(names, image.layers, strict=True)
    return tuple(Layer(name=name, digest=layer.digest, size=layer.size) for name, layer in named)


def _name(step: str, index: int) -> str:
    folder = _FOLDER.search(step)
    if folder:
        return folder[1]
    if "/run/jbuild/install.sh" in step:
        return "system"
    return "base" if index == 1 else f"layer {index}"

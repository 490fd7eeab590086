"""The records of a plan and of a built image."""

from __future__ import annotations

from dataclasses import dataclass

from builder.model.descriptors import Descriptor
from builder.model.recipes import Pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A built image. Its blobs are in the workspace's OCI layout, `images/blobs/sha256/<hex>`.

    `manifest` is the single-platform manifest, whose digest is the image's; `size` is its size in a registry, in bytes.
    """

    platform: str
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    labels: Pairs

    @property
    def digest(self) -> str:
        """The image's digest."""
        return self.manifest.digest

    @property
    def size(self) -> int:
        """Bytes of manifest, config and layers, compressed."""
        return self.manifest.size + self.config.size + sum(layer.size for layer in self.layers)


def proven_name(recipe: str, cell: str) -> str:
    """Return the name of a cell's image in the engine after a passed smoke test."""
    return f"jbuild/{recipe}:{cell}".lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """The settings of an image's configuration besides its layers.

    `healthcheck` and `entrypoint` are commands; `start_period_s` is the time until a server must be healthy.
    """

    environment: Pairs
    labels: Pairs
    workdir: str
    user: str
    port: int
    healthcheck: tuple[str, ...]
    start_period_s: int
    entrypoint: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A rendered cell: a folder that plain `docker buildx build` can build.

    `layers` are the folders below `layers/`, lowest first; `content` is the checksum of Dockerfile and scripts.
    `system` is the beginning of the Dockerfile up to jbuild's layers, if only layers and settings follow: BuildKit
    builds that part, and jbuild adds the rest. It is None if a template has other instructions there.
    """

    platform: str
    layers: tuple[str, ...]
    content: str
    command: tuple[str, ...]
    settings: ImageSettings
    system: str | None = None


ENVIRONMENT = "/opt/venv"


def site_packages(python: str) -> str:
    """Return the environment's site-packages folder in the image."""
    return f"{ENVIRONMENT}/lib/python{python}/site-packages"

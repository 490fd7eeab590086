"""The records of a plan and of a built image."""

from __future__ import annotations

from dataclasses import dataclass

from builder.model.recipes import Pairs

ENVIRONMENT = "/opt/venv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A blob of an image: OCI media type, digest (`sha256:…`), size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A built image. Its blobs lie in the workspace's OCI layout, `images/blobs/sha256/<hex>`.

    `manifest` is the single-platform manifest whose digest is the image's; `size` is what a registry stores, in bytes.
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
    """Return the name that the image of a cell has in the engine once it has proved itself."""
    return f"jbuild/{recipe}:{cell}".lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """What an image's configuration says besides its layers: how a container is started, and what the image is.

    `healthcheck` and `entrypoint` are commands; `start_period_s` is how long a server may take to be healthy.
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
    """A rendered cell: a folder that `docker buildx build` can build by itself.

    `layers` are the folders below `layers/`, lowest first; `content` is the checksum of Dockerfile and scripts.
    `system` is the beginning of the Dockerfile, up to our layers, if what follows is nothing but layers and settings:
    BuildKit then builds that much, and we put the rest on it. It is None where a template does more than that.
    """

    platform: str
    layers: tuple[str, ...]
    content: str
    command: tuple[str, ...]
    settings: ImageSettings
    system: str | None = None


def site_packages(python: str) -> str:
    """Return the environment's site-packages folder in the image."""
    return f"{ENVIRONMENT}/lib/python{python}/site-packages"

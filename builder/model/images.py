"""The records of a plan and a built image."""

from __future__ import annotations

from dataclasses import dataclass

from builder.model.precompiled import CubinKey
from builder.model.recipes import Pairs
from builder.model.slimming import SlimRules

ENVIRONMENT = "/opt/venv"
# The time of every file of a layer, 1980-01-01: the earliest in a zip archive.
EPOCH = 315532800
# A wheel or a model's file from this size on (bytes, compressed) has its own layer, so that other changes do
# not transfer it again.
OWN_LAYER_FROM = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A blob of an image: OCI media type, digest (`sha256:…`), size in bytes."""

    media_type: str
    digest: str
    size: int


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


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmImage:
    """An image with one more layer: the files that a start of the image `base` (its digest) compiled.

    `diff_id` is the digest of the layer's uncompressed content.
    """

    base: str
    image: Image
    layer: Descriptor
    diff_id: str


def proven_name(recipe: str, cell: str) -> str:
    """Return the name of a cell's proven image in the engine."""
    return f"jbuild/{recipe}:{cell}".lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """The configuration of an image, besides its layers.

    `healthcheck` and `entrypoint` are commands; `start_period_s` is the longest time until a server is healthy.
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
class SlimSize:
    """A wheel without GPU code for other GPUs: the bytes of its changed libraries, and those without this code."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimmedWheel:
    """A wheel whose GPU code for other GPUs is not in the image.

    `sha256` is that of the original wheel, `algorithm` the version of the method, `record` the sha256 of the wheel's
    RECORD in the image. `before` and `after` are the bytes of the changed files, `removed` the bytes of GPU code that
    went: files that cannot become shorter have zeros instead. `cubins` are the inputs of modules that the build made of
    PTX.
    """

    name: str
    version: str
    sha256: str
    rules: SlimRules
    algorithm: int
    record: str
    before: int
    after: int
    removed: int
    cubins: tuple[CubinKey, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A rendered cell: a folder that `docker buildx build` can build alone.

    `layers` are the folders below `layers/`, lowest first; `content` is the checksum of Dockerfile and scripts.
    BuildKit builds `system`, the beginning of the Dockerfile, and jbuild adds its layers and the settings; it is None
    if the template has other instructions after the layers. `slimmed` are the wheels without GPU code for other GPUs.
    """

    platform: str
    layers: tuple[str, ...]
    content: str
    command: tuple[str, ...]
    settings: ImageSettings
    system: str | None = None
    slimmed: tuple[SlimmedWheel, ...] = ()


def site_packages(python: str) -> str:
    """Return the environment's site-packages folder in the image."""
    return f"{ENVIRONMENT}/lib/python{python}/site-packages"

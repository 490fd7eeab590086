"""A warm image: a built image with one more layer, the files that its server's first start compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.host import tarball
from builder.host.tarball import LayerEntry, entries_below, file_of
from builder.image.oci.assemble import add_layer
from builder.image.oci.pack import pack
from builder.image.runtime import FOLDER
from builder.image.runtime.warm_start import CONDITIONS
from builder.image.runtime.warm_start import FOLDER as WARM
from builder.model.images import WarmImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.host.config import LayerCompression
    from builder.image.oci.pack import Packed
    from builder.model.images import Image

# The label with the digest of the image below the warm layer.
WARM_LABEL = "io.jbuild.warm"
_ROOT = f"{FOLDER.lstrip('/')}/{WARM}"


def make_warm_image(
    image: Image,
    config: dict[str, Any],
    conditions: str,
    files: Path,
    layout: Path,
    compression: LayerCompression,
    on_bytes: Callable[[float], object],
) -> WarmImage:
    """Write the layer, the configuration and the manifest of a warm image into a layout, and return the image.

    `config` is the image's configuration, `files` the folder of compiled files (`CompiledStore.keep`), and `conditions`
    the JSON of those of their start. The same files give the same digest.

    Raises:
        DiskError: they cannot be written.
        OSError, ValueError: a file cannot be read.
    """
    packed = pack(tarball.blocks(tarball.segments(_entries(conditions, files))), compression, layout, on_bytes)
    warm = with_warm_layer(image, config, packed, layout)
    return WarmImage(base=image.digest, image=warm, layer=packed.blob, diff_id=packed.diff_id)


def with_warm_layer(image: Image, config: dict[str, Any], layer: Packed, layout: Path) -> Image:
    """Write the configuration and the manifest of the image with its warm layer into a layout, and return the image.

    Raises:
        DiskError: they cannot be written.
    """
    return add_layer(image, config, layer, f"COPY {WARM}/ /{_ROOT}/", layout, labels=((WARM_LABEL, image.digest),))


def _entries(conditions: str, files: Path) -> Iterator[LayerEntry]:
    yield file_of(f"{_ROOT}/{CONDITIONS}", f"{conditions}\n".encode())
    for entry in entries_below(files):
        yield entry._replace(path=f"{_ROOT}/{entry.path}")

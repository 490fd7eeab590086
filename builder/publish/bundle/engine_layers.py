"""The layers of an engine's images, by the sha256 of their uncompressed content, and copies of them."""

from __future__ import annotations

import re
import tarfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING, cast

from docker.errors import NotFound

from builder.errors import EngineError
from builder.host.chunk_stream import as_file
from builder.host.engine.image_lists import list_images
from builder.host.files import copy_hashed, disk_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from docker import DockerClient

_NAMED = re.compile(r"blobs/sha256/([0-9a-f]{64})")


class EngineLayers:
    """The layers that an engine holds. `images` maps each to an image that has it."""

    def __init__(self, client: DockerClient) -> None:
        """Ask the engine for all images."""
        self._client = client
        self._stacks = dict(_stacks(client))
        self.images: Mapping[str, str] = {layer: image for image, stack in self._stacks.items() for layer in stack}

    def common(self, layers: Sequence[str]) -> int:
        """Return how many layers, from the lowest on, some image has in the same order."""
        return max((_common(stack, layers) for stack in self._stacks.values()), default=0)

    def save(self, layers: Collection[str], folder: Path) -> Mapping[str, Path]:
        """Copy uncompressed layers out of the engine; return their files.

        Raises:
            EngineError: the engine does not give one of them.
            DiskError: they do not fit onto the disk.
        """
        files: dict[str, Path] = {}
        for image in dict.fromkeys(self.images[layer] for layer in sorted(layers)):
            with disk_errors(folder):
                self._save_image(image, set(layers) - files.keys(), folder, files)
        if lost := set(layers) - files.keys():
            raise EngineError(
                f"the engine does not give the layer {min(lost)} of its image {self.images[min(lost)]}",
                where=self.images[min(lost)],
                hint="make the bundle without --since",
            )
        return files

    def _save_image(self, image: str, layers: Collection[str], folder: Path, files: dict[str, Path]) -> None:
        archive = as_file(self._client.api.get_image(image))
        with suppress(tarfile.ReadError), tarfile.open(fileobj=archive, mode="r|") as members:
            for member in members:
                name = _NAMED.fullmatch(member.name)
                if not member.isreg() or (name and f"sha256:{name[1]}" not in layers):
                    continue
                path = folder / f"layer-{len(files)}"
                digest = f"sha256:{copy_hashed(cast('IO[bytes]', members.extractfile(member)), path)}"
                if digest in layers:
                    files[digest] = path


def _stacks(client: DockerClient) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the ID of each image with its layers, the lowest first."""
    for image in list_images(client):
        with suppress(NotFound):
            facts = client.api.inspect_image(image["Id"])  # type: ignore[no-untyped-call]
            yield str(image["Id"]), tuple((facts.get("RootFS") or {}).get("Layers") or ())


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (left, right) in pairs if left != right), min(len(one), len(other)))

"""Makes blobs again from their recipes: the literals that came, and files that this machine has."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from builder.audit.byte_source import File, SourceRange
from builder.host.config import LayerCompression
from builder.image.oci import layout, pack
from gpu_proof.literals import literal_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from builder.audit.byte_source import ByteSource
    from gpu_proof.recipe_file import BlobRecipe, Recipes, Source, Step

_BLOCK = 1 << 20
# A large blob keeps several processors busy.
_AT_ONCE = max(1, min(8, (os.cpu_count() or 1) // 2))


class MissingFilesError(Exception):
    """This machine lacks files that recipes need, or they have changed."""


class Kitchen:
    """Makes blobs of recipes; `literals` is the file of the expanded literals, `files` those of this machine."""

    def __init__(self, recipes: Recipes, literals: Path, files: Mapping[str, Path]) -> None:
        """Check that all files are there.

        Raises:
            MissingFilesError: some are missing or have another size.
        """
        self._recipes, self._literals, self._files = recipes, literals, files
        missing = [source for source in recipes.files() if not self._is_here(source)]
        if missing:
            names = ", ".join(str(files.get(source.sha256, source.sha256)) for source in missing[:3])
            raise MissingFilesError(f"{len(missing)} files are missing or have another size: {names}")

    def make(self, recipe: BlobRecipe, target: Path) -> None:
        """Make a blob in a layout, unless it is there.

        Raises:
            MissingFilesError: a file of this machine has changed.
            ValueError: the recipe gives another blob.
        """
        path = layout.blob(target, recipe.blob.digest)
        if layout.is_present(target, recipe.blob):
            return
        if recipe.level is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(self._blocks(recipe.steps)))
            made = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        else:
            blocks = self._blocks(recipe.steps)
            made = pack.pack(blocks, LayerCompression(level=recipe.level), target, lambda _: None).blob.digest
        if made != recipe.blob.digest:
            layout.blob(target, made).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise ValueError(f"the recipe of {recipe.blob.digest} gives {made}: is zstandard of another release here?")

    def _is_here(self, source: Source) -> bool:
        path = self._files.get(source.sha256)
        return path is not None and path.is_file() and path.stat().st_size == source.size

    def _blocks(self, steps: Iterable[Step], original: ByteSource | None = None) -> Iterator[bytes]:
        for kind, at, size in steps:
            if kind == "source":
                yield from self._source_blocks(self._recipes.sources[at])
            elif kind == "literal":
                yield from literal_blocks(self._literals, at, size)
            elif kind == "zeros" or original is None:
                yield from (bytes(min(_BLOCK, size - start)) for start in range(0, size, _BLOCK))
            else:
                yield from (original.read(at + start, min(_BLOCK, size - start)) for start in range(0, size, _BLOCK))

    def _source_blocks(self, source: Source) -> Iterator[bytes]:
        digest = hashlib.sha256()
        original = source if source.original is None else self._recipes.sources[source.original]
        opened = self._opened(original)
        whole: tuple[Step, ...] = (("copy", 0, source.size),)
        for block in self._blocks(whole if source is original else source.steps, opened):
            digest.update(block)
            yield block
        if digest.hexdigest() != source.sha256:
            raise MissingFilesError(f"{self._files.get(original.sha256, self._literals)} has changed")

    def _opened(self, source: Source) -> ByteSource:
        """Return the bytes of an original: a file of this machine, or a range of the literals."""
        if not source.steps:
            return File(self._files[source.sha256])
        ((_, at, size),) = source.steps
        return SourceRange(File(self._literals), at, size)


def decode(recipes: Recipes, kitchen: Kitchen, target: Path, say: Callable[[str], object]) -> None:
    """Make all blobs in a layout, several at once, and write its index.

    Raises:
        MissingFilesError: a file of this machine has changed.
        ValueError: a recipe gives another blob.
    """

    def make(recipe: BlobRecipe) -> None:
        kitchen.make(recipe, target)
        say(f"made {recipe.blob.digest[:19]} {recipe.blob.size / 1e6:.1f} MB")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(make, sorted(recipes.blobs, key=lambda recipe: -recipe.blob.size)))
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")
    manifests = [
        {"mediaType": image.media_type, "digest": image.digest, "size": image.size} for image in recipes.images
    ]
    if not (target / "index.json").exists():
        (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}), encoding="utf-8")

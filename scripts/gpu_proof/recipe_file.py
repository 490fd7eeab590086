"""The recipes of blobs: what the receiver makes each blob of."""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from builder.host import records
from builder.model.images import Descriptor  # noqa: TC001  # the types of fields decode records

if TYPE_CHECKING:
    from pathlib import Path

RECIPES = "recipes.json.xz"
LITERALS = "literals.zst"

# Kind, position and size. `literal`: bytes of the literals; `source`: all bytes of the source with that number;
# `copy`: bytes of the original; `zeros`: zeros.
Step: TypeAlias = tuple[Literal["literal", "source", "copy", "zeros"], int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The content of a file, by its sha256.

    Without steps, the receiver has such a file. Else the steps make it, with copies from the source number `original`.
    """

    sha256: str
    size: int
    original: int | None = None
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRecipe:
    """The steps that make a blob's uncompressed content, and the compressor's level; None: the steps make the blob."""

    blob: Descriptor
    level: int | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipes:
    """The blobs of some images, each once."""

    images: tuple[Descriptor, ...]
    sources: tuple[Source, ...]
    blobs: tuple[BlobRecipe, ...]

    def files(self) -> tuple[Source, ...]:
        """Return the files that the receiver must have."""
        needed = {at for recipe in self.blobs for kind, at, _ in recipe.steps if kind == "source"}
        needed |= {original for at in needed if (original := self.sources[at].original) is not None}
        return tuple(source for at in sorted(needed) if not (source := self.sources[at]).steps)


def write_recipes(folder: Path, recipes: Recipes) -> None:
    """Write the recipes to a folder."""
    content = records.as_bytes(records.to_json(recipes))
    (folder / RECIPES).write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def read_recipes(folder: Path) -> Recipes:
    """Return the recipes of a folder.

    Raises:
        OSError, ValueError: there are none, or they are damaged.
    """
    try:
        recipes: Recipes = records.from_json(json.loads(lzma.decompress((folder / RECIPES).read_bytes())), Recipes)
    except (lzma.LZMAError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECIPES} is damaged: {error}") from error
    return recipes

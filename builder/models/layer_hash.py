"""The digest of a large file's own layer, computed while the file arrives, so that packing need not read it again.

It belongs to the bytes that arrived: where the file in the store has others, registries and engines refuse the layer.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.tarball import FILE_MODE, Content, LayerEntry, merged, segments
from builder.host.threaded_hash import ThreadedHash
from builder.model.images import OWN_LAYER_FROM
from builder.models import model_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def model_entry(model: str, path: str, content: Content) -> LayerEntry:
    """Return the entry in a layer for a file of a model; `path` is relative to the model's folder."""
    return LayerEntry(f"models/{model}/{path}", FILE_MODE, content.size, (content,))


@contextmanager
def hashing_layer(model: str, path: str, size: int) -> Iterator[ThreadedHash | None]:
    """Yield the hash of the layer of a model's file, or None if the file (`size` bytes) shares a layer."""
    if size < OWN_LAYER_FROM:
        yield None
        return
    match tuple(merged(segments([model_entry(model, path, Content("", size))]))):
        case (bytes(before), Content(), bytes(after)):
            with ThreadedHash(before, after) as framed:
                yield framed


def remember_layer(models: Path, sha256: str, framed: ThreadedHash | None) -> None:
    """Record the hash of a layer whose file has arrived, with this sha256.

    Raises:
        DiskError: it cannot be written.
    """
    if framed:
        model_store.remember(models, _key(framed.before, sha256, framed.after), framed.hexdigest())


def known_layer(models: Path, layer: Sequence[bytes | Content]) -> str | None:
    """Return the sha256 of a layer (`tarball.merged`) if it has one file, and was hashed when the file arrived."""
    match tuple(layer):
        case (bytes(before), Content(sha256=str(sha256)), bytes(after)):
            return model_store.remembered(models, _key(before, sha256, after))
    return None


def _key(before: bytes, sha256: str, after: bytes) -> str:
    around = (hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest())
    return records.fingerprint("layer", *around, sha256)

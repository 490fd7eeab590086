"""The bytes of a model's weights once they are loaded, from the safetensors headers where they are here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import ModelError
from builder.model.model_files import suffix_of
from builder.models.fit.kv_cache import element_bytes
from builder.models.fit.memory_estimate import MemoryItem
from builder.models.safetensors import HeaderError, read_header
from builder.models.selection import is_weight

if TYPE_CHECKING:
    from builder.models.fit.memory_estimate import Shape
    from builder.models.fit.model_config import ModelFiles
    from builder.models.safetensors import Tensor

_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class _WeightHeaders:
    """What the headers told: bytes as stored and loaded by type, and the sizes of files without a header here."""

    stored: Counter[str]
    loaded: Counter[str]
    unread: int


def weigh(files: ModelFiles, shape: Shape, dtype: str) -> MemoryItem:
    """Return what the weights take in memory when the server runs them as `dtype`.

    Raises:
        ModelError: a weight file is damaged.
    """
    read = _read(files, shape, dtype)
    unread = read.unread
    if unread and not shape.quantised:
        # Without their headers: the file's size, as if all its numbers were of the configuration's type.
        unread = unread * element_bytes(dtype) // element_bytes(shape.dtype)
    size = sum(read.loaded.values()) + unread
    if read.unread:
        why = "the locked files' sizes; their headers are not here (`jbuild models fetch` brings them)"
        return MemoryItem(name="weights", size=size, basis="estimate", why=why)
    kinds = ", ".join(f"{kind} {amount / 1e9:.3f} GB" for kind, amount in sorted(read.stored.items()))
    run = "" if read.loaded == read.stored else f", run as {dtype}"
    quantised = f" ({shape.quantised})" if shape.quantised else ""
    return MemoryItem(name="weights", size=size, basis="exact", why=f"safetensors headers: {kinds}{quantised}{run}")


def _read(files: ModelFiles, shape: Shape, dtype: str) -> _WeightHeaders:
    stored: Counter[str] = Counter()
    loaded: Counter[str] = Counter()
    unread = 0
    for path, size in sorted(files.sizes.items()):
        if not is_weight(path):
            continue
        local = files.find(path) if suffix_of(path) == "safetensors" else None
        if local is None:
            unread += size
            continue
        try:
            tensors = read_header(local)
        except HeaderError as error:
            hint = "fetch or copy the model again"
            raise ModelError(f"model {files.name}: {path} {error}", where=str(local), hint=hint) from error
        for tensor in tensors:
            # A tied output layer is the input layer again: servers do not load it a second time.
            if not (shape.tied and tensor.name.endswith("lm_head.weight")):
                stored[tensor.dtype] += tensor.size
                loaded[tensor.dtype] += _loaded(tensor, shape, dtype)
    return _WeightHeaders(stored=stored, loaded=loaded, unread=unread)


def _loaded(tensor: Tensor, shape: Shape, dtype: str) -> int:
    if shape.quantised or tensor.dtype not in _FLOATS:
        return tensor.size
    return tensor.size // _FLOATS[tensor.dtype] * element_bytes(dtype)

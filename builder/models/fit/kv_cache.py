"""The size of one sequence's KV cache in vLLM.

Formulas of vLLM 0.20.2, `v1/kv_cache_interface.py` and `_get_kv_cache_groups_uniform_page_size` in
`v1/core/kv_cache_utils.py`: tokens are in blocks; layers of each kind are in groups of one size, the last one padded.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.models.fit.memory_estimate import Layers, ServingSettings, Shape

_BYTES = {"float32": 4, "float": 4, "float64": 8}
# Below this ratio of the most frequent kind of layer to the least frequent one, groups have the larger size.
_PADDING_RATIO = 1.5


def element_bytes(dtype: str) -> int:
    """Return the bytes of one number of a type such as `bfloat16`."""
    return _BYTES.get(dtype, 2)


def cache_bytes(width: int, kv_dtype: str) -> int:
    """Return the bytes that `width` numbers take in the cache."""
    if kv_dtype.startswith(("fp8", "int8")):
        return width
    if kv_dtype == "nvfp4":
        # Two numbers per byte, and one byte of scale per sixteen numbers.
        return width // 2 + width // 16
    return width * element_bytes(kv_dtype)


def token_bytes(shape: Shape, settings: ServingSettings) -> int:
    """Return the bytes of one token in all layers."""
    return sum(layers.count * cache_bytes(layers.width, settings.kv_dtype) for layers in shape.layers)


def sequence_bytes(shape: Shape, settings: ServingSettings, length: int) -> int:
    """Return the most bytes that one sequence of `length` tokens takes."""
    kinds, windows = shape.layers, settings.hybrid or len(shape.layers) == 1
    if not windows:
        # vLLM then treats layers with a window as layers with full attention.
        kinds = tuple(replace(layers, window=None) for layers in kinds)
    if not windows or len(kinds) <= 1 or len({layers.width for layers in kinds}) > 1:
        return sum(layers.count * _blocks(layers, settings, length) * _page(layers, settings) for layers in kinds)
    size = _group_size([layers.count for layers in kinds])
    blocks = sum(math.ceil(layers.count / size) * _blocks(layers, settings, length) for layers in kinds)
    return size * _page(kinds[0], settings) * blocks


def longest(shape: Shape, settings: ServingSettings, room: int, limit: int) -> int | None:
    """Return the largest length, up to `limit` tokens, of a sequence that fits into `room` bytes; None if none fits."""
    if sequence_bytes(shape, settings, 1) > room:
        return None
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        if sequence_bytes(shape, settings, middle) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _group_size(counts: list[int]) -> int:
    fewest, most = min(counts), max(counts)
    return most if most < fewest * _PADDING_RATIO else fewest


def _blocks(layers: Layers, settings: ServingSettings, length: int) -> int:
    if layers.window is None:
        return math.ceil(length / settings.block)
    tokens = min(layers.window - 1 + settings.batched_tokens, length)
    # One more: the window may start inside a block.
    return math.ceil(tokens / settings.block) + 1


def _page(layers: Layers, settings: ServingSettings) -> int:
    return settings.block * cache_bytes(layers.width, settings.kv_dtype)

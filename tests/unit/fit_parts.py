"""Small builders for tests of estimates."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from builder.fit.model import Layers, Settings, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def layers(count: int, width: int, window: int | None = None) -> Layers:
    return Layers(count=count, width=width, what="keys and values", window=window)


def make_shape(*kinds: Layers, **changes: Any) -> Shape:
    facts: dict[str, Any] = {
        "model_type": "llama",
        "hidden": 4096,
        "intermediate": 14336,
        "vocabulary": 128256,
        "longest": 131072,
        "dtype": "bfloat16",
    }
    return Shape(layers=kinds, **(facts | changes))


def make_settings(**changes: Any) -> Settings:
    facts: dict[str, Any] = {
        "dtype": "bfloat16",
        "kv_dtype": "bfloat16",
        "length": 8192,
        "sequences": 1,
        "batched_tokens": 2048,
        "most_sequences": 256,
        "block": 16,
        "utilization": 0.9,
        "hybrid": True,
        "eager": False,
    }
    return Settings(**(facts | changes))


def write_weights(path: Path, tensors: Mapping[str, tuple[str, list[int], int]]) -> None:
    """Write a safetensors file of tensors (dtype, shape, bytes); its data is a hole, whatever its size."""
    header, end = {}, 0
    for name, (dtype, dimensions, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": dimensions, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)

"""Small builders for tests of estimates."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from builder.models.fit.memory_estimate import Layers, ServingSettings, Shape

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


def make_settings(**changes: Any) -> ServingSettings:
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
    return ServingSettings(**(facts | changes))


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


LLAMA_3_1_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3", "original_max_position_embeddings": 8192},
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_8B = {
    "model_type": "qwen3",
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
# As published, it leaves heads, vocabulary and length to the class, and names only the language model's deviations.
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16},
    "torch_dtype": "bfloat16",
}

"""Widens a Llama model with zeros to the sizes that quantised kernels support, without a change of what it computes.

Marlin, for example, needs layers with a multiple of 128 inputs, and SmolLM2-135M is 576 wide. The new channels and
heads are always zero. RMSNorm divides by the root of the mean over all channels: with more channels, the mean is
smaller by a known factor, which goes into the norms' weights and epsilon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from four_bits import Floats

MULTIPLE = 128
"""vLLM's GPTQ_MARLIN_MIN_THREAD_K; its other limits, 64 outputs and Machete's 64 by 128, follow."""

# The sizes of a layer's outputs and inputs.
_LAYERS = {
    "q_proj": ("queries", "hidden"),
    "k_proj": ("keys", "hidden"),
    "v_proj": ("keys", "hidden"),
    "o_proj": ("hidden", "queries"),
    "gate_proj": ("intermediate", "hidden"),
    "up_proj": ("intermediate", "hidden"),
    "down_proj": ("hidden", "intermediate"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes of a model that padding changes."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int

    @property
    def queries(self) -> int:
        """Channels of all query heads."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Channels of all key heads, or value heads."""
        return self.kv_heads * self.head


def sizes_of(config: dict[str, Any]) -> Sizes:
    """Return the sizes in a config.json.

    Raises:
        KeyError: it lacks one.
    """
    heads = config["num_attention_heads"]
    return Sizes(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        head=config.get("head_dim") or config["hidden_size"] // heads,
    )


def padded_sizes(sizes: Sizes) -> Sizes:
    """Return the next sizes that are multiples of MULTIPLE; whole groups of query heads are added.

    transformers also requires that the heads divide the hidden size.
    """
    group = sizes.heads // sizes.kv_heads
    kv_heads = sizes.kv_heads
    while (kv_heads * group * sizes.head) % MULTIPLE:
        kv_heads += 1
    heads = kv_heads * group
    return Sizes(
        hidden=_next(sizes.hidden, math.lcm(MULTIPLE, heads)),
        intermediate=_next(sizes.intermediate, MULTIPLE),
        heads=heads,
        kv_heads=kv_heads,
        head=sizes.head,
    )


def padded_config(config: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Return a model's config.json with other sizes."""
    return config | {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head,
        # Rounded: the quotient has digits of float64's error.
        "rms_norm_eps": float(f"{config['rms_norm_eps'] * config['hidden_size'] / sizes.hidden:.6g}"),
    }


def padded(name: str, values: Floats, old: Sizes, new: Sizes) -> Floats:
    """Return a tensor, named as in the model's file, with zeros up to the new sizes."""
    if values.ndim == 1:
        return _widen(values * np.float32(math.sqrt(old.hidden / new.hidden)), (new.hidden,))
    layer = _LAYERS.get(name.split(".")[-2])
    if layer is None:
        # The embedding and the output layer.
        return _widen(values, (values.shape[0], new.hidden))
    outputs, inputs = layer
    return _widen(values, (getattr(new, outputs), getattr(new, inputs)))


def is_quantised(name: str) -> bool:
    """Check whether a tensor is the weight of a layer that quantised checkpoints store in 4 bits."""
    return name.endswith(".weight") and name.split(".")[-2] in _LAYERS


def _next(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _widen(values: Floats, shape: tuple[int, ...]) -> Floats:
    widened: Floats = np.zeros(shape, np.float32)
    widened[tuple(slice(length) for length in values.shape)] = values
    return widened

"""From a model's config.json to what decides memory: layers, heads, windows, sizes, types.

Keys and rules are those of vLLM's `transformers_utils/model_arch_config_convertor.py` and `config/model.py` (read in
0.20.2), and of transformers' configuration classes for what a file leaves out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from builder.errors import ModelError
from builder.models.fit.fit_defaults import defaults
from builder.models.fit.memory_estimate import Layers, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
# Kinds of rotary scaling whose length is in the configuration already.
_SCALED_ALREADY = ("su", "longrope", "llama3", "default", "mrope")
_RECURRENT = ("linear_attention", "mamba", "recurrent", "conv", "mamba2", "short_conv")
# Models whose state is no KV cache of this shape, whatever other keys they have.
_OTHER_STATES = ("bamba", "falcon_h1", "falcon_mamba", "jamba", "mamba", "mamba2", "nemotron_h", "rwkv", "zamba2")
_LARGEST = 1 << 40
_MOST_LAYERS = 10_000


class _ModelConfig:
    """The language model's part of a configuration, with transformers' defaults behind it."""

    def __init__(self, whole: dict[str, Any]) -> None:
        nested = next((whole[key] for key in ("text_config", "llm_config") if isinstance(whole.get(key), dict)), None)
        self.whole, self.own = whole, nested if nested is not None else whole
        self.model_type = str(self.own.get("model_type") or whole.get("model_type") or "")
        self.row = defaults().get(self.model_type)
        self.unknown: list[str] = []

    def get(self, *keys: str) -> Any:
        """Return the first of these keys that says something, else its default; a null has none."""
        settings = [self.own[key] for key in keys if key in self.own]
        values = settings or [self.row.values.get(key) for key in keys if self.row]
        return next((value for value in values if value is not None), None)

    def number(self, *keys: str) -> int | None:
        """Return a positive whole number, or None."""
        value = self.get(*keys)
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST
        return value if fits else None

    def needed(self, meaning: str, *keys: str) -> int:
        """Return a number that nothing can be said without; its absence is noted."""
        value = self.number(*keys)
        if value is None:
            self.unknown.append(f"config.json does not say {meaning} (`{keys[0]}`)")
        return value or 0


def read_shape(name: str, location: str, text: bytes) -> Shape:
    """Read a config.json.

    Raises:
        ModelError: it is not one.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"model {name}: config.json is not JSON", where=location, hint="fetch the model again"
        ) from error
    if not isinstance(document, dict):
        raise ModelError(
            f"model {name}: config.json is not a JSON object", where=location, hint="fetch the model again"
        )
    config = _ModelConfig(document)
    layers = _layers(config)
    hidden = config.needed("how wide it is", *_HIDDEN)
    return Shape(
        model_type=config.model_type or "unnamed",
        layers=layers if not config.unknown else (),
        hidden=hidden,
        intermediate=_intermediate(config, hidden),
        vocabulary=config.needed("how many tokens it knows", "vocab_size"),
        longest=_longest(config),
        dtype=_dtype(config),
        quantised=_quantised(config),
        tied=bool(_either(config, "tie_word_embeddings")),
        unknown=tuple(config.unknown),
    )


def _either(config: _ModelConfig, key: str) -> Any:
    """Return a value that multimodal models keep beside the language model's own configuration or in it."""
    value = config.get(key)
    return config.whole.get(key) if value is None else value


def _layers(config: _ModelConfig) -> tuple[Layers, ...]:
    count = config.needed("how many layers it has", *_LAYERS)
    if count > _MOST_LAYERS:
        config.unknown.append(f"config.json speaks of {count} layers")
        return ()
    if config.model_type in _OTHER_STATES:
        config.unknown.append(f"the memory of a {config.model_type} model's state is not known here")
        return ()
    width, basis = _width(config)
    if config.unknown:
        return ()
    # The last ones of some models read the KV cache of earlier ones.
    kinds = _kinds(config, count)[: count - (config.number("num_kv_shared_layers") or 0)]
    recurrent = sum(kind in _RECURRENT for kind in kinds)
    if recurrent:
        config.unknown.append(f"{recurrent} of its {count} layers keep another state than a KV cache")
    window = _window(config)
    sliding = sum(kind == "sliding_attention" for kind in kinds) if window else 0
    rest = len(kinds) - recurrent - sliding
    groups = [Layers(count=rest, width=width, what=basis)] if rest else []
    return (*groups, Layers(count=sliding, width=width, what=basis, window=window)) if sliding else tuple(groups)


def _width(config: _ModelConfig) -> tuple[int, str]:
    latent = config.number("kv_lora_rank")
    if latent:
        rope = config.number("qk_rope_head_dim") or 0
        return latent + rope, f"one latent vector of {latent} + {rope}"
    heads = config.needed("how many heads it has", *_HEADS)
    kv_heads = _kv_heads(config, heads)
    size = config.number("head_dim", "hidden_size_per_head") or (config.number(*_HIDDEN) or 0) // max(heads, 1)
    return 2 * kv_heads * size, f"keys and values of {kv_heads} heads of {size}"


def _kv_heads(config: _ModelConfig, heads: int) -> int:
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return config.number(*_KV_HEADS) or heads


def _window(config: _ModelConfig) -> int | None:
    if config.get("use_sliding_window") is False:
        return None
    return config.number("sliding_window")


def _kinds(config: _ModelConfig, count: int) -> list[str]:
    """Return the kind of each layer, as transformers' configuration classes work it out."""
    types = config.get("layer_types")
    if isinstance(types, list) and len(types) == count:
        return [str(kind) for kind in types]
    every = config.number("sliding_window_pattern", "_sliding_window_pattern") or (
        config.row.sliding_every if config.row else None
    )
    if every:
        return _numbered(count, lambda index: (index + 1) % every != 0)
    first = config.number("max_window_layers")
    if first and config.get("use_sliding_window"):
        return _numbered(count, lambda index: index >= first)
    return _numbered(count, lambda _: _window(config) is not None)


def _numbered(count: int, slides: Callable[[int], bool]) -> list[str]:
    return ["sliding_attention" if slides(index) else "full_attention" for index in range(count)]


def _intermediate(config: _ModelConfig, hidden: int) -> int:
    """Return how wide the widest layer is for one token: with experts, as many of them as work on it."""
    plain = config.number("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * hidden
    chosen = config.number("num_experts_per_tok", "num_experts_per_token", "moe_topk") or 0
    expert = config.number("moe_intermediate_size") or (plain if chosen else 0)
    return max(plain, chosen * expert)


def _longest(config: _ModelConfig) -> int | None:
    lengths = [number for key in _LENGTHS if (number := config.number(key))]
    if not lengths:
        return None
    scaling = config.get("rope_scaling", "rope_parameters")
    if not isinstance(scaling, dict):
        return min(lengths)
    kind, factor = scaling.get("rope_type", scaling.get("type")), _factor(scaling.get("factor"))
    if kind in (None, *_SCALED_ALREADY) or "gemma3" in config.model_type or factor is None:
        return min(lengths)
    original = scaling.get("original_max_position_embeddings") if kind == "yarn" else None
    return int((original if isinstance(original, int) and original > 0 else min(lengths)) * factor)


def _factor(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value < _LARGEST else None


def _dtype(config: _ModelConfig) -> str:
    tables: Sequence[dict[str, Any]] = (config.whole, config.own)
    dtype = next((table[key] for table in tables for key in ("torch_dtype", "dtype") if table.get(key)), "float32")
    return str(dtype).removeprefix("torch.")


def _quantised(config: _ModelConfig) -> str | None:
    for table in (config.whole, config.own):
        for key in ("quantization_config", "compression_config"):
            if isinstance(table.get(key), dict):
                return str(table[key].get("quant_method") or "a method without a name").lower()
    return None

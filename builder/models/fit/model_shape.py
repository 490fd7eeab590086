"""Reads from a model's config.json what its memory depends on: layers, heads, windows, sizes, types.

Keys and rules come from vLLM 0.20.2's `transformers_utils/model_arch_config_convertor.py` and `config/model.py`,
defaults from transformers' configuration classes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from builder.errors import ModelError
from builder.models.config_json import architectures_of
from builder.models.fit.fit_defaults import defaults, encoders
from builder.models.fit.memory_estimate import Layers, Shape
from builder.models.fit.mistral_params import as_config, is_params
from builder.models.fit.quantisation import quantisation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
# Kinds of rotary scaling whose length the configuration already contains.
_SCALED_ALREADY = ("su", "longrope", "llama3", "default", "mrope")
_RECURRENT = ("linear_attention", "mamba", "recurrent", "conv", "mamba2", "short_conv")
# Model types with another state than a KV cache, whatever other keys they have.
_OTHER_STATES = ("bamba", "falcon_h1", "falcon_mamba", "jamba", "mamba", "mamba2", "nemotron_h", "rwkv", "zamba2")
_LARGEST = 1 << 40
_MOST_LAYERS = 10_000
_AGAIN = "fetch the model again"


class _ModelConfig:
    """A configuration and its language model's section, with transformers' defaults for missing keys."""

    def __init__(self, document: dict[str, Any]) -> None:
        sections = (document.get(key) for key in ("text_config", "llm_config"))
        self.document = document
        self.section = next((section for section in sections if isinstance(section, dict)), document)
        self.model_type = str(self.section.get("model_type") or document.get("model_type") or "")
        self.row = defaults().get(self.model_type)
        self.unknown: list[str] = []

    def get(self, *keys: str) -> Any:
        """Return the value of the first key that is not null, else its default; only absent keys have one."""
        settings = [self.section[key] for key in keys if key in self.section]
        values = settings or [self.row.values.get(key) for key in keys if self.row]
        return next((value for value in values if value is not None), None)

    def number(self, *keys: str) -> int | None:
        """Return a positive whole number, or None."""
        value = self.get(*keys)
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST
        return value if fits else None

    def needed(self, meaning: str, *keys: str) -> int:
        """Return a number that the estimate needs; if it is missing, return 0 and note that."""
        value = self.number(*keys)
        if value is None:
            self.unknown.append(f"config.json does not say {meaning} (`{keys[0]}`)")
        return value or 0


def read_shape(name: str, location: str, text: bytes) -> Shape:
    """Read a config.json, or the params.json of Mistral's own format.

    Raises:
        ModelError: it is not a JSON object.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"model {name}: config.json is not JSON", where=location, hint=_AGAIN) from error
    if not isinstance(document, dict):
        raise ModelError(f"model {name}: config.json is not a JSON object", where=location, hint=_AGAIN)
    config = _ModelConfig(as_config(document) if is_params(document) else document)
    has_cache = not _is_encoder(config)
    layers = _layers(config) if has_cache else ()
    quantised = quantisation_of((config.document, config.section))
    hidden = config.needed("how wide it is", *_HIDDEN)
    # Multimodal models have it in the language model's section or beside it.
    tied = config.get("tie_word_embeddings")
    return Shape(
        model_type=config.model_type or "unnamed",
        layers=layers if not config.unknown else (),
        hidden=hidden,
        intermediate=_intermediate(config, hidden),
        vocabulary=config.needed("how many tokens it knows", "vocab_size"),
        longest=_longest(config),
        dtype=_dtype(config),
        quantised=quantised.method if quantised else None,
        algorithm=quantised.algorithm if quantised else None,
        kv_dtype=quantised.kv_dtype if quantised else None,
        has_cache=has_cache,
        tied=bool(config.document.get("tie_word_embeddings") if tied is None else tied),
        unknown=tuple(config.unknown),
    )


def _is_encoder(config: _ModelConfig) -> bool:
    """Return whether all layers are encoders: by the tables, or since `is_causal` is false, as vLLM decides it."""
    is_listed = bool(encoders() & {config.model_type, *architectures_of(config.document)})
    return config.get("is_causal") is False or (is_listed and not config.get("is_decoder"))


def _layers(config: _ModelConfig) -> tuple[Layers, ...]:
    count = config.needed("how many layers it has", *_LAYERS)
    if count > _MOST_LAYERS:
        config.unknown.append(f"config.json has {count} layers, which is too many")
        return ()
    if config.model_type in _OTHER_STATES:
        config.unknown.append(f"jbuild cannot estimate the state of a {config.model_type} model")
        return ()
    width, basis = _width(config)
    if config.unknown:
        return ()
    # In some models the last layers share the KV cache of earlier ones.
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
    """Return the kind of each layer by the rules of transformers' configuration classes."""
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
    """Return the width of the widest layer for one token; with experts, the sum of the active ones."""
    dense = config.number("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim") or 4 * hidden
    active = config.number("num_experts_per_tok", "num_experts_per_token", "moe_topk") or 0
    expert = config.number("moe_intermediate_size") or (dense if active else 0)
    return max(dense, active * expert)


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
    tables: Sequence[dict[str, Any]] = (config.document, config.section)
    dtype = next((table[key] for table in tables for key in ("torch_dtype", "dtype") if table.get(key)), "float32")
    return str(dtype).removeprefix("torch.")

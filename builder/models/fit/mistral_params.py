"""Reads params.json, the configuration of Mistral's own format, as config.json.

Keys and defaults are those of vLLM 0.15.1's `transformers_utils/configs/mistral.py` and `MistralConfigParser`.
"""

from __future__ import annotations

from typing import Any

_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "tied_embeddings": "tie_word_embeddings",
}
_LENGTH = 128_000


def is_params(document: dict[str, Any]) -> bool:
    """Return whether a configuration has the keys of params.json."""
    return "dim" in document and "n_layers" in document and "architectures" not in document


def as_config(params: dict[str, Any]) -> dict[str, Any]:
    """Return a params.json with the keys of config.json."""
    config = {_NAMES.get(key, key): value for key, value in params.items()}
    config.setdefault("model_type", "transformer")
    config.setdefault("torch_dtype", "bfloat16")
    config["max_position_embeddings"] = params.get("max_position_embeddings") or _LENGTH
    windows, layers = params.get("sliding_window"), params.get("n_layers")
    if isinstance(windows, list) and windows and isinstance(layers, int):
        kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
        config["layer_types"] = kinds * (layers // len(windows))
        config["sliding_window"] = next((window for window in windows if window), None)
    yarn, experts, quantised = (params.get(key) for key in ("yarn", "moe", "quantization"))
    if isinstance(yarn, dict):
        config["rope_parameters"] = {**yarn, "rope_type": "yarn"}
    if isinstance(experts, dict):
        config["num_experts_per_tok"] = experts.get("num_experts_per_tok")
        config["moe_intermediate_size"] = experts.get("expert_hidden_dim")
    if isinstance(quantised, dict) and quantised:
        config["quantization_config"] = {"quant_method": "fp8"}
    return config

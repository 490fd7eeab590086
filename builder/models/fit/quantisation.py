"""A checkpoint's quantisation as its own configuration has it: method, algorithm, and the type of its KV cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# ModelOpt 0.29.0 and before writes its configuration there (vLLM 0.20.2, `get_config`).
SEPARATE_FILE = "hf_quant_config.json"
_KEYS = ("quantization_config", "compression_config")
_FP8_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
_BITS_FP8, _BITS_NVFP4 = 8, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantisation:
    """The method of the weights, the algorithm of a method with several, and the KV cache's type, if it is set."""

    method: str
    algorithm: str | None = None
    kv_dtype: str | None = None


def with_separate(text: bytes, separate: bytes) -> bytes:
    """Return a config.json with the quantisation of a separate file, unless it has its own."""
    try:
        document, quantisation = json.loads(text), json.loads(separate)
    except (ValueError, RecursionError):
        return text
    tables = isinstance(document, dict) and isinstance(quantisation, dict)
    return json.dumps(document | {_KEYS[0]: quantisation}).encode() if tables and not document.get(_KEYS[0]) else text


def quantisation_of(tables: Iterable[dict[str, Any]]) -> Quantisation | None:
    """Return the quantisation of the first of these tables that has one."""
    configs = (table[key] for table in tables for key in _KEYS if isinstance(table.get(key), dict))
    config = next(configs, None)
    if config is None:
        return None
    inner = config.get("quantization")
    both = {**config, **inner} if isinstance(inner, dict) else config
    method, algorithm = _method(config, both), both.get("quant_algo")
    return Quantisation(
        method=method,
        algorithm=algorithm.upper() if isinstance(algorithm, str) else None,
        kv_dtype=_kv_dtype(method, both),
    )


def _method(config: dict[str, Any], both: dict[str, Any]) -> str:
    """Return the method by the rules of vLLM's `_normalize_quantization_config`."""
    producer = config.get("producer")
    if isinstance(producer, dict) and producer.get("name") == "modelopt":
        return "modelopt_fp4" if str(both.get("quant_algo")).upper() == "NVFP4" else "modelopt"
    return (
        str(config.get("quant_method") or "a method without a name")
        .lower()
        .replace("compressed_tensors", "compressed-tensors")
    )


def _kv_dtype(method: str, config: dict[str, Any]) -> str | None:
    """Return the type of the KV cache by the rules of vLLM.

    For ModelOpt these are in `get_kv_cache_quant_algo_string` (`utils/torch_utils.py`), for compressed-tensors in
    `Attention` (`attention/layer.py` in 0.15.1); read in 0.15.1 and 0.20.2.
    """
    scheme = config.get("kv_cache_scheme")
    if method == "compressed-tensors":
        return "fp8" if _is_float(scheme, _BITS_FP8) else None
    if not method.startswith("modelopt"):
        return None
    if isinstance(scheme, dict) and scheme:
        if _is_float(scheme, _BITS_FP8) and scheme.get("dynamic") is False:
            return "fp8"
        return "nvfp4" if _is_float(scheme, _BITS_NVFP4) else None
    algorithm = str(scheme or config.get("kv_cache_quant_algo")).lower()
    return algorithm if algorithm in ("fp8", "nvfp4") else None


def needs_sm_89(method: str | None, algorithm: str | None) -> bool:
    """Return whether vLLM 0.20.2 and before runs the weights only from SM 8.9 on (`ModelOptFp8Config`)."""
    return method == "modelopt" and algorithm in (None, *_FP8_ALGORITHMS)


def _is_float(scheme: object, bits: int) -> bool:
    return isinstance(scheme, dict) and scheme.get("type") == "float" and scheme.get("num_bits") == bits

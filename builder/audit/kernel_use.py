"""What a server does with its model, as far as the kernels depend on it: quantisation, attention, experts, encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.models.preflight.quantization_rules import chosen_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.models.preflight.model_facts import ModelFacts
    from builder.models.preflight.server_context import ServerContext

_FLASH, _FLASHINFER, _TRITON = "FLASH_ATTN", "FLASHINFER", "TRITON_ATTN"
# The largest head size of FlashAttention-2 and 3.
_LARGEST_HEAD = 256
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ENCODERS = ("vision_config", "audio_config")
_ENCODER_HEADS = ("num_heads", "num_attention_heads", "encoder_attention_heads")
_ENCODER_SIZES = ("embed_dim", "hidden_size", "d_model")
# Attention sinks, which only FlashAttention-3 has: `supports_sink` of vLLM 0.20.2 and 0.33.0.
_WITH_SINKS = ("GptOssForCausalLM",)
_HOPPER, _BLACKWELL = 9, 10
_FP8_CACHE, _OTHER_CACHES = "fp8", ("int8", "nvfp4", "turboquant")
UNQUANTIZED = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerUse:
    """What a server does with its model: `method` is the quantisation with the kind of its numbers.

    `attention` is the backend, `named` whether the server's settings name it, `odd` the reason why it cannot be told.
    `encoder_heads` are the head sizes of attention without a KV cache, 0 for an unknown one. `group_size` is the number
    of inputs that share a scale, -1 for all of them, None without a statement.
    """

    model: ModelFacts
    head_size: int | None
    method: str
    experts: int
    attention: str | None
    named: bool
    odd: tuple[str, str] | None
    encoder_heads: tuple[int, ...]
    group_size: int | None
    graphs: bool


def server_use(context: ServerContext, model: ModelFacts, sm: int) -> ServerUse:
    """Return what a server does with its model on a GPU."""
    attention, odd = _attention(context, model, sm)
    return ServerUse(
        model=model,
        head_size=_head_size(model),
        method=_method(context, model),
        experts=_experts(model),
        attention=attention,
        named=_backend(context) is not None,
        odd=odd,
        encoder_heads=_encoder_heads(context, model),
        group_size=_group_size(model.quantization),
        graphs=context.option("--enforce-eager") is None,
    )


def weight_type(use: ServerUse) -> str | None:
    """Return the type of quantised weights, as `quant_type` of vLLM 0.20.2 and 0.33.0 names it; None if unknown."""
    section, name = use.model.quantization, use.method.partition(":")[0]
    if name in ("mxfp4", "gpt_oss_mxfp4"):
        return "float4_e2m1f"
    if name in ("fp8", "modelopt") or use.method.startswith("compressed-tensors:fp8"):
        return "float8_e4m3fn"
    if name in ("awq_marlin", "auto_awq"):
        return "uint4" if section.get("zero_point") is not False else None
    symmetric = {4: "uint4b8", 8: "uint8b128"}
    if name in ("gptq_marlin", "auto_gptq"):
        return symmetric.get(section.get("bits", 0))
    if use.method == "compressed-tensors:wna16":
        weights = _weights(section)
        bits = weights.get("num_bits")
        return symmetric.get(bits or 0) if weights.get("symmetric") is not False else {4: "uint4"}.get(bits or 0)
    return None


def _method(context: ServerContext, model: ModelFacts) -> str:
    """Return the quantisation method that vLLM chooses, with the kind of its numbers where kernels differ by it."""
    method = chosen_method(context)
    if method == "compressed-tensors":
        return f"{method}{_compressed_kind(model.quantization)}"
    if method == "fp8":
        return f"{method}:{_fp8_kind(model.quantization)}"
    return method or UNQUANTIZED


def _fp8_kind(section: Mapping[str, Any]) -> str:
    if section.get("weight_block_size"):
        return "block"
    return "tensor" if section.get("activation_scheme") == "static" else "token"


def _compressed_kind(section: Mapping[str, Any]) -> str:
    weights, inputs = _weights(section), _group(section).get("input_activations")
    if not weights:
        return ""
    kind, bits = weights.get("type"), weights.get("num_bits")
    if not inputs and kind == "int":
        return ":wna16"
    if (kind, bits) == ("int", 8):
        return ":int8"
    if (kind, bits) != ("float", 8):
        return f":{kind}{bits}"
    scales = [row.get("strategy") if isinstance(row, dict) else None for row in (weights, inputs)]
    return ":fp8:block" if "block" in scales else ":fp8:tensor" if scales == ["tensor", "tensor"] else ":fp8:token"


def _weights(section: Mapping[str, Any]) -> dict[str, Any]:
    weights = _group(section).get("weights")
    return weights if isinstance(weights, dict) else {}


def _group(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first group of a compressed-tensors section: it has the settings of the products."""
    groups = section.get("config_groups")
    group: object = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    return group if isinstance(group, dict) else {}


def _group_size(section: Mapping[str, Any]) -> int | None:
    """Return the inputs that share a scale, as GPTQ, AWQ and compressed-tensors state it."""
    sizes = (section.get("group_size"), section.get("q_group_size"), _weights(section).get("group_size"))
    return next((size for size in sizes if type(size) is int), None)


def _attention(context: ServerContext, model: ModelFacts, sm: int) -> tuple[str | None, tuple[str, str] | None]:
    """Return the attention backend, or what makes it unknown with the reason."""
    named, size = _backend(context), _head_size(model)
    if _section(model, "kv_lora_rank"):
        return None, ("multi-head latent attention", f"model {model.name}")
    if named:
        return named, None
    if sm // 10 == _BLACKWELL:
        return _FLASHINFER, None
    if size is None or size > _LARGEST_HEAD:
        return None, (f"attention with head size {size or 'unknown'}", f"model {model.name}")
    cache = context.settings.kv_dtype if context.settings else ""
    if cache.startswith(_OTHER_CACHES):
        return None, ("attention on a quantised KV cache", "the KV cache's type")
    return _first_backend(model, cache, sm), None


def _first_backend(model: ModelFacts, cache: str, sm: int) -> str:
    """Return the first backend of vLLM's list that takes the KV cache: FlashAttention-2 takes none in FP8."""
    if sm // 10 == _HOPPER:
        return _FLASH
    if set(model.architectures).intersection(_WITH_SINKS):
        return _TRITON
    return _FLASHINFER if cache.startswith(_FP8_CACHE) else _FLASH


def _backend(context: ServerContext) -> str | None:
    named = context.option("--attention-backend") or context.environment.get("VLLM_ATTENTION_BACKEND")
    return named.upper() if named and named.lower() != "auto" else None


def _encoder_heads(context: ServerContext, model: ModelFacts) -> tuple[int, ...]:
    """Return the head sizes of attention without a KV cache: of encoders, and of models that only encode."""
    release = context.sources.vllm
    tables = {release.facts.architectures.get(name) for name in model.architectures} if release else set()
    decodes = any(name.endswith("ForCausalLM") for name in model.architectures)
    if not tables or decodes or tables == {"text_generation"} or context.option("--language-model-only") is not None:
        return ()
    if tables == {"multimodal"}:
        sections = [section for key in _ENCODERS if isinstance(section := model.config.get(key), dict)]
        return tuple(dict.fromkeys(map(_encoder_head, sections))) or (0,)
    return (_head_size(model) or 0,)


def _encoder_head(section: dict[str, Any]) -> int:
    head = section.get("head_dim")
    heads = next((section[key] for key in _ENCODER_HEADS if section.get(key)), None)
    size = next((section[key] for key in _ENCODER_SIZES if section.get(key)), None)
    if isinstance(head, int):
        return head
    return size // heads if isinstance(size, int) and isinstance(heads, int) and heads > 0 else 0


def _head_size(model: ModelFacts) -> int | None:
    size = _section(model, "head_dim")
    if isinstance(size, int) and size > 0:
        return size
    return model.shape.hidden // model.heads if model.heads and model.shape.hidden else None


def _experts(model: ModelFacts) -> int:
    counts = (_section(model, key) for key in _EXPERTS)
    return next((count for count in counts if isinstance(count, int) and count > 1), 0)


def _section(model: ModelFacts, key: str) -> object:
    sections = (model.config.get("text_config"), model.config.get("llm_config"), model.config)
    return next((section[key] for section in sections if isinstance(section, dict) and section.get(key)), None)

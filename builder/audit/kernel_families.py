"""The families of kernels that a cell's server and model use, by the rows of `kernels.toml`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.toml import documents
from builder.jetson.boards import sm_number
from builder.models.preflight.quantization_rules import chosen_method

if TYPE_CHECKING:
    from builder.host.toml.documents import Table
    from builder.models.preflight.model_facts import ModelFacts
    from builder.models.preflight.server_context import ServerContext

_TABLE = Path(__file__).with_name("kernels.toml")
_FLASH = "FLASH_ATTN"
# FlashAttention-2 rounds head sizes up to these: `HEADDIM_SWITCH` of its static_switch.h.
_HEAD_SIZES = (32, 64, 96, 128, 192, 256)
_TYPES = {"float16": "6half_t", "bfloat16": "10bfloat16_t"}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFamily:
    """A row of `kernels.toml`; SMs as numbers (89 for 8.9), None without a bound."""

    name: str
    title: str
    files: tuple[str, ...]
    kernels: str
    model: bool
    methods: tuple[str, ...]
    moe: bool
    attention: str | None
    majors: tuple[int, ...]
    lowest: int | None
    below: int | None

    def is_for(self, sm: int) -> bool:
        """Return whether vLLM uses the family on a GPU at all."""
        in_bounds = (self.lowest or 0) <= sm < (self.below or 10_000)
        return in_bounds and (not self.majors or sm // 10 in self.majors)


@dataclass(frozen=True, kw_only=True, slots=True)
class NeededFamily:
    """A family that a server uses, what asks for it, and the regular expression on the kernels that it uses."""

    family: KernelFamily
    reason: str
    kernels: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelNeeds:
    """The families that a server uses on a GPU; `unknown` are features whose kernels no row describes, with reasons."""

    families: tuple[NeededFamily, ...]
    unknown: tuple[tuple[str, str], ...] = ()


@cache
def kernel_families() -> tuple[KernelFamily, ...]:
    """Return the rows of `kernels.toml`.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(_TABLE, "the families of kernels have mistakes", _families)


def _families(root: Table) -> tuple[KernelFamily, ...]:
    rows = []
    for table in root.rows("families"):
        bounds = {key: table.optional_string(key) for key in ("from", "below")}
        pattern = table.string("kernels")
        try:
            re.compile(pattern.replace("{head}", "64").replace("{type}", "x"))
        except re.error as error:
            table.problem("kernels", f"not a regular expression: {error}")
        rows.append(
            KernelFamily(
                name=table.string("name"),
                title=table.string("title"),
                files=table.strings("files"),
                kernels=pattern,
                model=table.boolean("model", default=False),
                methods=table.strings("methods"),
                moe=table.boolean("moe", default=False),
                attention=table.optional_string("attention"),
                majors=tuple(map(int, table.strings("majors", pattern="[0-9]{1,2}", noun="a major such as 8"))),
                lowest=sm_number(bounds["from"]) if bounds["from"] else None,
                below=sm_number(bounds["below"]) if bounds["below"] else None,
            )
        )
        table.string("source", pattern=".+", noun="a source")
    return tuple(rows)


def kernel_needs(context: ServerContext, sm: int) -> KernelNeeds:
    """Return what a server asks of a GPU."""
    context = replace(context, boards={name: number for name, number in context.boards.items() if number == sm})
    model = context.model
    if model is None:
        rows = [row for row in kernel_families() if not _is_conditional(row)]
        return KernelNeeds(families=tuple(_needed(row, "every server", context) for row in rows))
    method, unknown = _method(context, model), list(_unknown(context, model, sm))
    reasons = {row: _reason(row, context, model, method) for row in kernel_families() if row.is_for(sm)}
    families = tuple(_needed(row, reason, context) for row, reason in reasons.items() if reason)
    covered = {name for row in kernel_families() if row.is_for(sm) for name in row.methods}
    if method and method not in covered:
        unknown.append((f"quantisation {method}", f"model {model.name}"))
    return KernelNeeds(families=families, unknown=tuple(unknown))


def _is_conditional(row: KernelFamily) -> bool:
    return bool(row.model or row.methods or row.moe or row.attention)


def _reason(row: KernelFamily, context: ServerContext, model: ModelFacts, method: str | None) -> str | None:
    """Return what asks for a family, None if nothing does."""
    if row.attention:
        return f"head size {_head_size(model)}" if _uses_flash_attention(context, model) else None
    if row.moe and not _experts(model):
        return None
    if row.methods:
        return method if method in row.methods else None
    if row.moe:
        return f"{_experts(model)} experts"
    return f"model {model.name}" if row.model else "every server"


def _needed(row: KernelFamily, reason: str, context: ServerContext) -> NeededFamily:
    pattern = row.kernels
    if context.model and "{head}" in pattern:
        size = _head_size(context.model) or 0
        rounded = next((head for head in _HEAD_SIZES if head >= size), size)
        dtype = context.settings.dtype if context.settings else ""
        pattern = pattern.replace("{head}", str(rounded)).replace("{type}", _TYPES.get(dtype, ""))
    return NeededFamily(family=row, reason=reason, kernels=pattern)


def _method(context: ServerContext, model: ModelFacts) -> str | None:
    """Return the quantisation method that vLLM chooses; those of compressed-tensors with the kind of their numbers."""
    method = chosen_method(context)
    if method != "compressed-tensors":
        return method
    groups = model.quantization.get("config_groups")
    group: object = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    weights, inputs = (group.get(key) if isinstance(group, dict) else None for key in ("weights", "input_activations"))
    if not isinstance(weights, dict):
        return method
    if not inputs and weights.get("type") == "int":
        return f"{method}:wna16"
    kind, bits = weights.get("type"), weights.get("num_bits")
    names = {("float", 8): "fp8", ("int", 8): "int8"}
    return f"{method}:{names.get((str(kind), bits if isinstance(bits, int) else 0), f'{kind}{bits}')}"


def _unknown(context: ServerContext, model: ModelFacts, sm: int) -> list[tuple[str, str]]:
    reasons = []
    if _section(model, "kv_lora_rank"):
        reasons.append(("multi-head latent attention", f"model {model.name}"))
    elif _backend(context) not in (None, _FLASH):
        reasons.append((f"attention backend {_backend(context)}", "the server's settings"))
    elif sm // 10 == 10:  # noqa: PLR2004  # vLLM prefers FlashInfer there
        reasons.append(("attention backend FLASHINFER", "vLLM's choice on SM 10.x"))
    elif (size := _head_size(model)) is None or size > _HEAD_SIZES[-1]:
        reasons.append((f"attention with head size {size or 'unknown'}", f"model {model.name}"))
    elif not _is_plain_cache(context):
        reasons.append(("attention on a quantised KV cache", "the KV cache's type"))
    if any("state" in text or "recurrent" in text for text in model.shape.unknown):
        reasons.append(("layers with a state instead of attention", f"model {model.name}"))
    return reasons


def _uses_flash_attention(context: ServerContext, model: ModelFacts) -> bool:
    size = _head_size(model)
    has_size = size is not None and size <= _HEAD_SIZES[-1]
    is_plain = not _section(model, "kv_lora_rank") and _is_plain_cache(context)
    return has_size and is_plain and _backend(context) in (None, _FLASH)


def _is_plain_cache(context: ServerContext) -> bool:
    """Return whether the KV cache has the model's own type: FlashAttention-2 has no other."""
    settings = context.settings
    return settings is None or not settings.kv_dtype.startswith(("fp8", "nvfp4", "turboquant"))


def _backend(context: ServerContext) -> str | None:
    named = context.option("--attention-backend") or context.environment.get("VLLM_ATTENTION_BACKEND")
    return named.upper() if named and named.lower() != "auto" else None


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

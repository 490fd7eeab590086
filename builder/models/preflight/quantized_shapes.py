"""The rule about layers whose sizes no quantised kernel of the locked vLLM takes.

vLLM chooses a kernel for each layer of a GPTQ checkpoint (`choose_mp_linear_kernel`) and does not start if none takes
its sizes. For AWQ it checks the sizes itself, and computes such layers with AWQ's older kernels. Read in 0.9.2 to
0.33.0; releases whose Marlin pads the layers take every size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.models.config_json import CONFIG
from builder.models.preflight.quantization_rules import chosen_method, methods
from builder.models.preflight.server_context import joined, model_finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.model.audits import Finding, Severity
    from builder.models.preflight.model_facts import ModelFacts
    from builder.models.preflight.server_context import ServerContext

_RULE = "quantization-shape"
# Their layers have these sizes in vLLM 0.9.2 to 0.33.0: llama.py (Mistral's too), qwen2.py and qwen3.py.
_DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# Sections of a checkpoint's quantisation that give some layers other settings.
_BY_LAYER = ("modules_to_not_convert", "dynamic")
# Other kernels than vLLM's own take further sizes where their package is there.
_PACKAGES = ("conch-triton-kernels", "bitblas", "humming-kernels")
_FLOAT16 = "float16"
_METHODS = ("awq", "gptq")
_PAIR = 2
_INT8 = 8
# Machete runs on this SM only, and needs multiples of these inputs and outputs (`check_machete_supports_shape`).
_MACHETE_SM, _MACHETE_MULTIPLES = 90, (64, 128)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """A linear layer as vLLM merges it: its name, and the numbers of its inputs and outputs."""

    name: str
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.name} ({self.inputs} inputs, {self.outputs} outputs)"

    def fits(self, inputs: int, outputs: int) -> bool:
        return self.inputs % inputs == 0 and self.outputs % outputs == 0


def quantization_shapes(context: ServerContext) -> Iterator[Finding]:
    """Yield the layers of a GPTQ or AWQ checkpoint that Marlin does not take, unless another kernel takes them."""
    release, model, settings = context.sources.vllm, context.model, context.settings
    if release is None or model is None or settings is None or not _uses_marlin(context, model):
        return
    multiples, is_awq = release.facts.marlin_multiples, model.quantization["quant_method"] == "awq"
    refused = [layer for layer in _layers(model) if not layer.fits(*multiples)]
    if not is_awq and context.boards and all(sm == _MACHETE_SM for sm in context.boards.values()):
        refused = [layer for layer in refused if not layer.fits(*_MACHETE_MULTIPLES)]
    # vLLM's other kernels for GPTQ and AWQ compute in float16; Exllama, the one for GPTQ, takes groups only.
    in_float16 = is_awq or _is_grouped(model.quantization)
    if not refused or (in_float16 and settings.dtype == _FLOAT16):
        return
    needs = f"it needs multiples of {multiples[0]} inputs and {multiples[1]} outputs"
    layers = f"has layers of sizes that Marlin of {release} does not take ({needs}): {joined([*map(str, refused)])}"
    older = f"vLLM computes them with AWQ's older kernels, which take {_FLOAT16} only"
    none = f"no other kernel of vLLM takes them in {settings.dtype}, and the server does not start"
    detail = f"{layers}; {older if is_awq else none}"
    fix = f'set dtype = "{_FLOAT16}" under [server], or ' if in_float16 else ""
    severity: Severity = "warning" if is_awq else "error"
    yield model_finding(model, _RULE, severity, CONFIG, detail, f"{fix}choose another checkpoint")


def _uses_marlin(context: ServerContext, model: ModelFacts) -> bool:
    """Return whether vLLM gives the checkpoint to a Marlin that takes some sizes only, on a GPU."""
    release, own = context.sources.vllm, model.quantization.get("quant_method")
    if release is None or len(release.facts.marlin_multiples) != _PAIR or own not in _METHODS or not context.gpu:
        return False
    return chosen_method(context) == methods()[own].marlin and not _others(context, model.quantization)


def _is_grouped(section: dict[str, object]) -> bool:
    group = section.get("group_size", section.get("q_group_size"))
    return isinstance(group, int) and group > 0


def _others(context: ServerContext, section: dict[str, object]) -> bool:
    """Return whether other kernels may take the layers, or their sizes are not those of the whole model."""
    if any(section.get(key) for key in _BY_LAYER) or not all(context.lacks(package) for package in _PACKAGES):
        return True
    # AllSpark takes 8 bits without groups.
    in_allspark = section.get("bits", section.get("w_bit")) == _INT8 and not _is_grouped(section)
    return in_allspark or context.option("--tensor-parallel-size", "-tp") not in (None, "1")


def _layers(model: ModelFacts) -> tuple[_Layer, ...]:
    """Return the linear layers of a decoder; none if its sizes are unknown."""
    config, heads = model.config, model.heads
    hidden, inner = _number(config, "hidden_size"), _number(config, "intermediate_size")
    if model.model_type not in _DECODERS or not (heads and hidden and inner):
        return ()
    width = _number(config, "head_dim") or hidden // heads
    cached = _number(config, "num_key_value_heads") or heads
    return (
        _Layer(name="qkv_proj", inputs=hidden, outputs=(heads + 2 * cached) * width),
        _Layer(name="o_proj", inputs=heads * width, outputs=hidden),
        _Layer(name="gate_up_proj", inputs=hidden, outputs=2 * inner),
        _Layer(name="down_proj", inputs=inner, outputs=hidden),
    )


def _number(config: dict[str, object], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) else 0

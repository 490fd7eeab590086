"""Small source trees of vLLM and transformers, and servers to hold against them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factories import make_jetson
from fit_parts import layers, make_shape

from builder.model.recipes import Question, ServerSpec
from builder.models.preflight.model_facts import ModelFacts
from builder.models.preflight.server_context import ServerContext
from builder.models.preflight.server_facts import QuantizationFacts, ServerFacts, ServerOption, TransformersFacts
from builder.models.preflight.wheel_sources import Release, Sources

if TYPE_CHECKING:
    from builder.model.platforms import Platform

CHAT = Question(ask="What is the capital of France?", expect="Paris")
OPTIONS = (
    ServerOption(name="--max-model-len", number=True),
    ServerOption(name="--dtype"),
    ServerOption(name="--quantization"),
    ServerOption(name="-q"),
    ServerOption(name="--enforce-eager", flag=True),
    ServerOption(name="--enable-auto-tool-choice", flag=True),
    ServerOption(name="--trust-remote-code", flag=True),
    ServerOption(name="--allow-deprecated-quantization", flag=True),
    ServerOption(name="--skip-tokenizer-init", flag=True),
    ServerOption(name="--language-model-only", flag=True),
    ServerOption(name="--kv-cache-dtype", choices=("auto", "fp8", "fp8_e4m3")),
    ServerOption(name="--served-model-name", many=True),
    ServerOption(name="--hf-token", optional=True),
    ServerOption(name="--tensor-parallel-size"),
    ServerOption(name="-tp"),
    ServerOption(name="--pipeline-parallel-size"),
    ServerOption(name="--tool-call-parser"),
    ServerOption(name="--tool-parser-plugin"),
    ServerOption(name="--reasoning-parser"),
    ServerOption(name="--chat-template"),
    ServerOption(name="--tokenizer"),
    ServerOption(name="--model-impl"),
    ServerOption(name="--runner", choices=("auto", "generate", "pooling")),
    ServerOption(name="--limit-mm-per-prompt"),
    ServerOption(
        name="--compilation-config",
        keys=("mode", "pass_config", "pass_config.fuse_norm_quant", "inductor_config"),
        only_keys=True,
    ),
    ServerOption(name="--pooler-config", keys=("pooling_type", "normalize")),
    ServerOption(name="-O"),
    ServerOption(name="--gpu-memory-utilization"),
    ServerOption(name="--enable-lora", flag=True),
    ServerOption(name="--lora-modules", many=True),
    ServerOption(name="--max-lora-rank", number=True),
)
FACTS = ServerFacts(
    options=OPTIONS,
    architectures={
        "LlamaForCausalLM": "text_generation",
        "BertModel": "embedding",
        "Qwen2VLForConditionalGeneration": "multimodal",
    },
    removed={"Phi3SmallForCausalLM": "0.9.2"},
    model_types=("chatglm",),
    quantizations={
        "awq": QuantizationFacts(min_sm=75, dtypes=("float16",)),
        "awq_marlin": QuantizationFacts(min_sm=75, dtypes=("float16", "bfloat16")),
        "cpu_awq": QuantizationFacts(dtypes=("float16", "bfloat16")),
        "gptq": QuantizationFacts(min_sm=60, dtypes=("float16",)),
        "gptq_marlin": QuantizationFacts(min_sm=75, dtypes=("float16", "bfloat16")),
        "bitsandbytes": QuantizationFacts(min_sm=70, dtypes=("float32", "float16", "bfloat16")),
        "modelopt": QuantizationFacts(min_sm=89, dtypes=("bfloat16", "float16")),
        "ptpc_fp8": QuantizationFacts(deprecated=True),
    },
    tool_parsers=("hermes", "llama3_json", "mistral"),
    reasoning_parsers=("deepseek_r1", "qwen3"),
    template_fallbacks=("blip-2",),
)
LIBRARY = TransformersFacts(
    model_types=("bert", "llama", "llava", "olmo9", "qwen2_vl"),
    architectures=("LlamaForCausalLM", "Olmo9ForCausalLM"),
    image_types=("llava",),
)
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
}


def make_served(*, paths: tuple[str, ...] = ("tokenizer.json",), tokenizer: Any = None, **config: Any) -> ModelFacts:
    """Return a model with a chat template; `config` changes its config.json, None takes a key out."""
    document = {key: value for key, value in (LLAMA | config).items() if value is not None}
    quantization = document.get("quantization_config", {})
    shape = make_shape(
        layers(2, 64), longest=document.get("max_position_embeddings"), quantised=quantization.get("quant_method")
    )
    settings = {"chat_template": "{{ messages }}"} if tokenizer is None else tokenizer
    return ModelFacts(
        name="m",
        config=document,
        shape=shape,
        paths=frozenset(("config.json", *paths)),
        tokenizer=settings,
        quantization=quantization,
    )


def make_context(
    model: ModelFacts | None = None,
    *arguments: str,
    platform: Platform | None = None,
    facts: ServerFacts = FACTS,
    **changes: Any,
) -> ServerContext:
    """Return a server for an Orin with the options of `FACTS`; `changes` are of its context and its `[server]`."""
    server = {key: changes.pop(key) for key in tuple(changes) if key in ServerSpec.__slots__}
    whole: dict[str, Any] = {
        "server": ServerSpec(arguments=arguments, **server),
        "questions": (CHAT,),
        "platform": platform or make_jetson(),
        "versions": {"vllm": "0.20.2", "transformers": "5.0.0"},
        "boards": {"agx-orin-64": 87},
        "sources": Sources(vllm=Release(name="vllm", version="0.20.2", facts=facts), transformers=LIBRARY),
        "model": model,
    }
    return ServerContext(**(whole | changes))


NEWER = {
    "vllm/model_executor/kernels/linear/mixed_precision/marlin.py": b"""
class MarlinLinearKernel(MPLinearKernel):
    @classmethod
    def can_implement(cls, c):
        return check_marlin_supports_shape(c.partition_weight_shape[1], c.partition_weight_shape[0])
""",
    "vllm/model_executor/layers/quantization/utils/marlin_utils.py": b"""
GPTQ_MARLIN_MIN_THREAD_N = 64
GPTQ_MARLIN_MIN_THREAD_K = 128
""",
    "vllm/engine/arg_utils.py": b"""
class EngineArgs:
    model: str = "x"

    def add_cli_args(parser):
        model_kwargs = get_kwargs(ModelConfig)
        group = parser.add_argument_group(title="ModelConfig")
        group.add_argument("--dtype", **model_kwargs["dtype"])
        group.add_argument("--max-model-len", **model_kwargs["max_model_len"])
        group.add_argument("--enforce-eager", **model_kwargs["enforce_eager"])
        group.add_argument("--tokenizer-mode", **model_kwargs["tokenizer_mode"])
        group.add_argument("--runner", "-r", **model_kwargs["runner"])
        group.add_argument("--served-model-name", **model_kwargs["served_model_name"])
        attention_kwargs = get_kwargs(AttentionConfig)
        group.add_argument("--attention-backend", **attention_kwargs["backend"])
        parallel_kwargs = get_kwargs(ParallelConfig)
        group.add_argument("--eplb-config", **parallel_kwargs["eplb_config"])
        group.add_argument("--hf-token", type=str, nargs="?", const=True)
        group.add_argument("--max-num-seqs", **{**model_kwargs["max_num_seqs"], "default": None})
        group.add_argument("--headless", action="store_true")
        group.add_argument("--scheduler", choices=["fcfs", "priority"])
""",
    "vllm/config/model.py": b"""
Mode = Literal["auto", "slow"]
ModelDType = Literal["auto", "half"]
Convert = Literal["none", "embed"]
RunnerOption = Literal["auto", Convert]

class ModelConfig:
    dtype: ModelDType | torch.dtype = "auto"
    max_model_len: int | None = None
    enforce_eager: bool = False
    max_num_seqs: int = Field(default=128)
    tokenizer_mode: Mode | str = "auto"
    runner: RunnerOption = "auto"
    served_model_name: str | list[str] | None = None
""",
    "vllm/config/other.py": b"""
@config
class Base:
    inherited: int = 1

@config
class PassConfig:
    fuse_norm_quant: bool = Field(default=None)

@config
class EPLBConfig(Base):
    passes: PassConfig = Field(default_factory=PassConfig)
    free: dict[str, Any] = field(default_factory=dict)
    backend: Literal["nccl", "ipc"] | None = None

class ParallelConfig:
    eplb_config: EPLBConfig | None = None

class AttentionConfig:
    backend: str | None = None
""",
    "vllm/config/utils.py": b"""
def config(cls=None, *, config=None, **kwargs):
    merged_config = ConfigDict(extra="forbid")
""",
    "vllm/entrypoints/openai/cli_args.py": b"""
class FrontendArgs:
    host: str | None = None
    uvicorn_log_level: Literal["debug", "info"] = "info"
    api_key: list[str] | None = None
    enable_auto_tool_choice: bool = False
""",
    "vllm/model_executor/models/registry.py": b"""
_TEXT_GENERATION_MODELS = {
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "Qwen2ForCausalLM": ("qwen2", "Qwen2ForCausalLM"),
}
_MULTIMODAL_MODELS = {"Qwen2VLForConditionalGeneration": ("qwen2_vl", "Qwen2VL")}
_EMBEDDING_MODELS = {
    "BertModel": ("bert", "BertEmbeddingModel"),
    "Qwen2ForCausalLM": ("qwen2", "Qwen2ForCausalLM"),
    "Qwen2VLForConditionalGeneration": ("qwen2_vl", "Qwen2VL"),
}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS, **_MULTIMODAL_MODELS, **_EMBEDDING_MODELS}
_PREVIOUSLY_SUPPORTED_MODELS = {"Phi3SmallForCausalLM": "0.9.2"}
""",
    "vllm/model_executor/layers/quantization/__init__.py": b"""
QuantizationMethods = Literal["awq", "modelopt", "gguf"]
DEPRECATED_QUANTIZATION_METHODS = ["gguf"]

def get_quantization_config(quantization):
    from .awq import AWQConfig
    from vllm.model_executor.layers.quantization.modelopt import ModelOptFp8Config
    method_to_config = {"awq": AWQConfig, "modelopt": ModelOptFp8Config, "auto-round": AWQConfig}
    return method_to_config[quantization]
""",
    "vllm/model_executor/layers/quantization/awq.py": b"""
class AWQConfig:
    def get_supported_act_dtypes(self):
        return [torch.half]

    def get_min_capability(cls) -> int:
        # The AWQ kernel only supports Turing or newer GPUs.
        return 75
""",
    "vllm/model_executor/layers/quantization/modelopt.py": b"""
class Base:
    def get_min_capability(cls):
        return 89

class ModelOptFp8Config(Base):
    def get_supported_act_dtypes(self):
        if rocm():
            return [torch.half]
        return [torch.bfloat16]
""",
    "vllm/transformers_utils/config.py": b"_CONFIG_REGISTRY: dict = LazyConfigDict(chatglm='ChatGLMConfig')",
    "vllm/tool_parsers/__init__.py": b"_TOOL_PARSERS_TO_REGISTER = {'hermes': ('hermes_tool_parser', 'Hermes')}",
    "vllm/reasoning/__init__.py": b"_REASONING_PARSERS_TO_REGISTER = {'qwen3': ('qwen3', 'Qwen3')}",
}
OLDER = {
    "vllm/config.py": b"""
class ModelConfig:
    tokenizer_mode: Literal["auto", "slow"] = "auto"
""",
    "vllm/engine/arg_utils.py": b"""
class EngineArgs:
    def add_cli_args(parser):
        model_kwargs = get_kwargs(ModelConfig)
        parser.add_argument("--tokenizer-mode", **model_kwargs["tokenizer_mode"])
        parser.add_argument("--use-v2", action=argparse.BooleanOptionalAction)
""",
    "vllm/entrypoints/openai/tool_parsers/hermes_tool_parser.py": b"""
@ToolParserManager.register_module("hermes")
class Hermes2ProToolParser(ToolParser):
    pass
""",
    "vllm/entrypoints/openai/tool_parsers/internlm2_tool_parser.py": b"""
@ToolParserManager.register_module(["internlm", "internlm2"])
class InternLM(ToolParser):
    pass
""",
    "vllm/transformers_utils/config.py": b"_CONFIG_REGISTRY = {'chatglm': ChatGLMConfig, **_MORE}",
}

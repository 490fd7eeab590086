"""vLLM's and transformers' sources are read, not run: options, architectures, quantisations, parsers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preflight_parts import NEWER, OLDER

from builder.models.preflight import transformers_source
from builder.models.preflight.server_facts import QuantizationFacts, ServerFacts, ServerOption
from builder.models.preflight.syntax import Module
from builder.models.preflight.vllm_source import is_read, read_vllm

if TYPE_CHECKING:
    from collections.abc import Mapping


def read(tree: Mapping[str, bytes]) -> ServerFacts:
    assert all(is_read(path) for path in tree), "the wheel's reader picks these files"
    return read_vllm(tree.get, list(tree))


@pytest.fixture
def newer() -> ServerFacts:
    return read(NEWER)


@pytest.mark.parametrize(
    "option",
    [
        ServerOption(name="--dtype", choices=("auto", "half")),
        ServerOption(name="--max-model-len", number=True),
        ServerOption(name="--enforce-eager", flag=True),
        # `Mode | str` takes any string.
        ServerOption(name="--tokenizer-mode"),
        ServerOption(name="--runner", choices=("auto", "none", "embed")),
        ServerOption(name="-r", choices=("auto", "none", "embed")),
        ServerOption(name="--served-model-name", many=True),
        # Another class has a field of this name, too.
        ServerOption(name="--attention-backend"),
        # Fields of the class, of its base, and of the class of a field.
        ServerOption(
            name="--eplb-config",
            keys=("inherited", "passes", "passes.fuse_norm_quant", "free", "backend"),
            only_keys=True,
        ),
        ServerOption(name="--hf-token", optional=True),
        ServerOption(name="--max-num-seqs", number=True),
        ServerOption(name="--headless", flag=True),
        ServerOption(name="--scheduler", choices=("fcfs", "priority")),
        ServerOption(name="--host"),
        ServerOption(name="--uvicorn-log-level", choices=("debug", "info")),
        ServerOption(name="--api-key", many=True),
        ServerOption(name="--enable-auto-tool-choice", flag=True),
    ],
    ids=lambda option: option.name,
)
def test_options_with_the_values_of_their_fields(newer: ServerFacts, option: ServerOption) -> None:
    assert option in newer.options


def test_fields_of_the_engine_are_no_options_by_themselves(newer: ServerFacts) -> None:
    assert "--model" not in [option.name for option in newer.options]


def test_architectures_with_their_tables(newer: ServerFacts) -> None:
    assert newer.architectures == {
        "LlamaForCausalLM": "text_generation",
        # Also in the table of models for embeddings, which a server can make of it.
        "Qwen2ForCausalLM": "text_generation",
        "Qwen2VLForConditionalGeneration": "multimodal",
        "BertModel": "embedding",
    }
    assert newer.removed == {"Phi3SmallForCausalLM": "0.9.2"}


def test_quantisations_with_their_lowest_sm_and_types(newer: ServerFacts) -> None:
    assert newer.quantizations == {
        "awq": QuantizationFacts(min_sm=75, dtypes=("float16",)),
        # A base class has the SM; types that depend on the machine are unknown.
        "modelopt": QuantizationFacts(min_sm=89),
        "gguf": QuantizationFacts(deprecated=True),
        "auto-round": QuantizationFacts(min_sm=75, dtypes=("float16",)),
    }


def test_parsers_and_model_types(newer: ServerFacts) -> None:
    assert (newer.tool_parsers, newer.reasoning_parsers) == (("hermes",), ("qwen3",))
    assert newer.model_types == ("chatglm",)


def test_an_older_layout() -> None:
    older = read(OLDER)
    assert older.tool_parsers == ("hermes", "internlm", "internlm2")
    assert older.model_types == ("chatglm",)
    assert ServerOption(name="--tokenizer-mode", choices=("auto", "slow")) in older.options
    assert ServerOption(name="--use-v2", flag=True) in older.options


@pytest.mark.parametrize(
    ("decorators", "only"),
    [("@config\n@dataclass", False), ('@config\n@dataclass(config=ConfigDict(extra="forbid"))', True)],
)
def test_in_earlier_releases_each_class_refuses_other_keys_by_itself(decorators: str, only: bool) -> None:
    tree = OLDER | {
        "vllm/config.py": f"""
def config(cls):
    return cls

{decorators}
class ModelConfig:
    a: int = 1

class VllmConfig:
    tokenizer_mode: ModelConfig | None = None
""".encode(),
        "vllm/engine/arg_utils.py": b"""
def add_cli_args(parser):
    kwargs = get_kwargs(VllmConfig)
    parser.add_argument("--tokenizer-mode", **kwargs["tokenizer_mode"])
""",
    }
    assert ServerOption(name="--tokenizer-mode", keys=("a",), only_keys=only) in read(tree).options


def test_a_release_with_another_layout_says_nothing() -> None:
    assert read_vllm(lambda _: None, []) == ServerFacts()


def test_the_sizes_that_marlin_takes() -> None:
    assert read(NEWER).marlin_multiples == (128, 64)
    assert read(OLDER).marlin_multiples == ()
    kernel = "vllm/model_executor/kernels/linear/mixed_precision/marlin.py"
    padding = {kernel: b"class MarlinLinearKernel:\n    def can_implement(cls, c):\n        return True, None\n"}
    assert read(NEWER | padding).marlin_multiples == ()
    older = "vllm/model_executor/layers/quantization/kernels/mixed_precision/marlin.py"
    moved = {older if path == kernel else path: source for path, source in NEWER.items()}
    assert read(moved).marlin_multiples == (128, 64)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NEWER)), st.binary(max_size=400), st.integers(0, 400))
def test_damaged_sources_say_less_and_never_fail(path: str, noise: bytes, at: int) -> None:
    damaged = NEWER[path][:at] + noise + NEWER[path][at:]
    facts = read_vllm((NEWER | {path: damaged}).get, list(NEWER))
    assert isinstance(facts, ServerFacts)


def test_a_source_beyond_any_bound_is_not_parsed() -> None:
    assert Module(b"A = ['x']\n" + b"#" * (5 << 20)).strings("A") == ()


def test_transformers_mappings() -> None:
    sources = {
        "transformers/models/auto/configuration_auto.py": b"""
from .auto_mappings import CONFIG_MAPPING_NAMES
CONFIG_MAPPING_NAMES.update({"bert": "BertConfig"})
CONFIG_MAPPING_NAMES = OrderedDict(**{"gpt-sw3": "GPT2Config"}, **CONFIG_MAPPING_NAMES)
""",
        "transformers/models/auto/auto_mappings.py": b"""
CONFIG_MAPPING_NAMES = OrderedDict[str, str]([("llama", "LlamaConfig")])
""",
        "transformers/models/auto/modeling_auto.py": b"""
if TYPE_CHECKING:
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict()
else:
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict([("llama", "LlamaForCausalLM"), ("x", ("A", "B"))])
""",
        "transformers/models/auto/tokenization_auto.py": b"""
TOKENIZER_MAPPING_NAMES = OrderedDict([("llama", ("LlamaTokenizer" if is_available() else None, None))])
""",
    }
    facts = transformers_source.read_transformers(sources.get)
    assert facts.model_types == ("bert", "gpt-sw3", "llama")
    assert facts.architectures == ("A", "B", "LlamaForCausalLM")
    assert facts.tokenizers == ("LlamaTokenizer",)

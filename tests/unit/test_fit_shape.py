"""Shapes of published models: their config.json, shortened to the keys that decide memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from fit_parts import GEMMA_3_4B, LLAMA_3_1_8B, QWEN3_8B
from hypothesis import given

from builder.errors import ModelError
from builder.models.fit.model_shape import read_shape
from builder.models.fit.quantisation import with_separate

if TYPE_CHECKING:
    from builder.models.fit.memory_estimate import Shape

QWEN2_5_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 152064,
}
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_attention_heads": 32,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "max_position_embeddings": 40960,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}
MISTRAL_7B_V0_1 = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
GEMMA_2_9B = {
    "model_type": "gemma2",
    "head_dim": 256,
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "torch_dtype": "bfloat16",
    "vocab_size": 256000,
}
DTYPE_INSIDE = {"text_config": {"model_type": "gemma3_text", "dtype": "float16"}}
DEEPSEEK_V2_LITE = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 6,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_hidden_layers": 27,
    "max_position_embeddings": 163840,
    "rope_scaling": {"factor": 40, "type": "yarn", "original_max_position_embeddings": 4096},
    "torch_dtype": "bfloat16",
    "vocab_size": 102400,
}
PHI_3_MINI_4K = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "sliding_window": 2047,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
LLAVA_1_5_7B = {
    "model_type": "llava",
    "text_config": {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "num_hidden_layers": 24},
    "torch_dtype": "float16",
}
QWEN2_5_VL_7B = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 32, "hidden_size": 1280},
    "torch_dtype": "bfloat16",
    "vocab_size": 152064,
}
GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "head_dim": 64,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "quantization_config": {"quant_method": "mxfp4"},
    "rope_scaling": {"factor": 32.0, "rope_type": "yarn", "original_max_position_embeddings": 4096},
    "torch_dtype": "bfloat16",
    "vocab_size": 201088,
}


def shape(config: dict[str, Any]) -> Shape:
    return read_shape("tiny", "config.json", json.dumps(config).encode())


@pytest.mark.parametrize(
    ("config", "layers", "longest"),
    [
        (LLAMA_3_1_8B, [(32, 2 * 8 * 128, None)], 131072),
        (QWEN2_5_7B, [(28, 2 * 4 * 128, None)], 32768),
        (QWEN3_8B, [(36, 2 * 8 * 128, None)], 40960),
        (QWEN3_30B_A3B, [(48, 2 * 4 * 128, None)], 40960),
        (MISTRAL_7B_V0_1, [(32, 2 * 8 * 128, 4096)], 32768),
        (MISTRAL_7B_V0_1 | {"sliding_window": None}, [(32, 2 * 8 * 128, None)], 32768),
        (GEMMA_2_9B, [(21, 2 * 8 * 256, None), (21, 2 * 8 * 256, 4096)], 8192),
        (GEMMA_3_4B, [(5, 2 * 4 * 256, None), (29, 2 * 4 * 256, 1024)], 131072),
        (DEEPSEEK_V2_LITE, [(27, 512 + 64, None)], 163840),
        (PHI_3_MINI_4K, [(32, 2 * 32 * 96, 2047)], 4096),
        (LLAVA_1_5_7B, [(32, 2 * 32 * 128, None)], 4096),
        (QWEN2_5_VL_7B, [(28, 2 * 4 * 128, None)], 128000),
        (GPT_OSS_20B, [(12, 2 * 8 * 64, None), (12, 2 * 8 * 64, 128)], 131072),
    ],
)
def test_layers_of_published_models(
    config: dict[str, Any], layers: list[tuple[int, int, int | None]], longest: int
) -> None:
    result = shape(config)
    assert [(layers_row.count, layers_row.width, layers_row.window) for layers_row in result.layers] == layers
    assert (result.longest, result.unknown) == (longest, ())


def test_what_a_null_means() -> None:
    """`"sliding_window": null` says that there is none; an absent key leaves it to the class."""
    without = {key: value for key, value in MISTRAL_7B_V0_1.items() if key != "sliding_window"}
    assert shape(without).layers[0].window == 4096


def test_numbers_that_activations_depend_on() -> None:
    result = shape(GEMMA_3_4B)
    assert (result.hidden, result.intermediate, result.vocabulary) == (2560, 10240, 262208)
    assert shape(QWEN3_30B_A3B).intermediate == max(6144, 8 * 768)
    assert shape(DEEPSEEK_V2_LITE).intermediate == 10944
    assert shape({**LLAMA_3_1_8B, "intermediate_size": None, "model_type": "other"}).intermediate == 4 * 4096


@pytest.mark.parametrize(
    ("config", "dtype", "quantised", "tied"),
    [
        (LLAMA_3_1_8B, "bfloat16", None, False),
        (GEMMA_3_4B, "bfloat16", None, True),
        (GPT_OSS_20B, "bfloat16", "mxfp4", False),
        (LLAMA_3_1_8B | {"torch_dtype": None, "dtype": "torch.float16"}, "float16", None, False),
        (LLAMA_3_1_8B | {"torch_dtype": None}, "float32", None, False),
        (LLAMA_3_1_8B | {"quantization_config": {"quant_method": "AWQ", "bits": 4}}, "bfloat16", "awq", False),
        (LLAMA_3_1_8B | {"compression_config": {}}, "bfloat16", "a method without a name", False),
        (DTYPE_INSIDE, "float16", None, True),
    ],
)
def test_types(config: dict[str, Any], dtype: str, quantised: str | None, tied: bool) -> None:
    result = shape(config)
    assert (result.dtype, result.quantised, result.tied) == (dtype, quantised, tied)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ({"rope_type": "yarn", "factor": 4.0}, 524288),
        ({"rope_type": "linear", "factor": 2}, 262144),
        ({"rope_type": "dynamic", "factor": 2.0}, 262144),
        ({"rope_type": "longrope", "factor": 32.0}, 131072),
        ({"rope_type": "linear", "factor": None}, 131072),
        ({"rope_type": "linear", "factor": -1}, 131072),
        ({"rope_type": "linear", "factor": True}, 131072),
        ("nonsense", 131072),
        (None, 131072),
    ],
)
def test_rotary_scaling_makes_contexts_longer(scaling: object, longest: int) -> None:
    assert shape(LLAMA_3_1_8B | {"rope_scaling": scaling}).longest == longest


def test_the_shortest_length_counts() -> None:
    assert shape(LLAMA_3_1_8B | {"seq_length": 2048}).longest == 2048
    assert shape({**LLAMA_3_1_8B, "model_type": "other", "max_position_embeddings": None}).longest is None


def test_layers_that_share_a_cache_are_counted_once() -> None:
    gemma_3n = {"text_config": {"model_type": "gemma3n_text"}}
    assert [(layers_row.count, layers_row.window) for layers_row in shape(gemma_3n).layers] == [(4, None), (16, 512)]


def test_multi_query_attention_has_one_head() -> None:
    falcon = {"model_type": "falcon", "hidden_size": 4544, "n_head": 71, "n_layer": 32, "vocab_size": 65024}
    assert shape(falcon | {"multi_query": True}).layers[0].width == 2 * 1 * 64
    new = falcon | {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8}
    assert shape(new).layers[0].width == 2 * 8 * 64


BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 30522,
}
DISTILBERT = {"model_type": "distilbert", "dim": 768, "hidden_dim": 3072, "n_layers": 6, "vocab_size": 30522}


@pytest.mark.parametrize(
    "config",
    [
        BERT,
        BERT | {"architectures": ["BertForSequenceClassification"]},
        BERT | {"model_type": "xlm-roberta", "architectures": None},
        BERT | {"model_type": "modernbert"},
        BERT | {"model_type": "own", "architectures": ["NomicBertModel"]},
        LLAMA_3_1_8B | {"architectures": ["LlamaBidirectionalModel"]},
        QWEN2_5_7B | {"is_causal": False},
        DISTILBERT,
    ],
)
def test_encoders_have_no_cache(config: dict[str, Any]) -> None:
    result = shape(config)
    assert (result.has_cache, result.layers, result.unknown) == (False, (), ())


def test_decoders_of_an_encoders_family_have_a_cache() -> None:
    assert shape(BERT | {"is_decoder": True}).has_cache
    assert shape(LLAMA_3_1_8B).has_cache
    assert shape(LLAMA_3_1_8B | {"architectures": [["BertModel"]]}).has_cache


FP8 = {"num_bits": 8, "type": "float", "dynamic": False}


@pytest.mark.parametrize(
    ("config", "kv_dtype"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": FP8}, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_scheme": FP8 | {"dynamic": True}}, None),
        ({"quant_method": "modelopt_fp4", "kv_cache_scheme": {"num_bits": 4, "type": "float"}}, "nvfp4"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "quantization": {"kv_cache_quant_algo": "FP8"}}, "fp8"),
        ({"producer": {"name": "modelopt"}, "quantization": {"kv_cache_quant_algo": "FP8"}}, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": None}, None),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "INT8"}, None),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": FP8 | {"strategy": "tensor"}}, "fp8"),
        ({"quant_method": "compressed_tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "int"}}, None),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": None}, None),
        ({"quant_method": "awq", "kv_cache_scheme": FP8}, None),
    ],
)
def test_the_type_of_the_cache_that_a_checkpoint_asks_for(config: dict[str, Any], kv_dtype: str | None) -> None:
    assert shape(LLAMA_3_1_8B | {"quantization_config": config}).kv_dtype == kv_dtype


def test_a_quantisation_in_its_own_file() -> None:
    algorithms = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    separate = json.dumps({"producer": {"name": "modelopt"}, "quantization": algorithms}).encode()
    merged = with_separate(json.dumps(LLAMA_3_1_8B).encode(), separate)
    result = read_shape("tiny", "config.json", merged)
    assert (result.quantised, result.algorithm, result.kv_dtype) == ("modelopt_fp4", "NVFP4", "fp8")
    own = json.dumps(LLAMA_3_1_8B | {"quantization_config": {"quant_method": "awq"}}).encode()
    assert with_separate(own, separate) == own
    assert with_separate(b"{", separate) == b"{"
    assert with_separate(own, b"<html>") == own


MINISTRAL = {
    "dim": 4096,
    "n_layers": 36,
    "head_dim": 128,
    "hidden_dim": 12288,
    "n_heads": 32,
    "n_kv_heads": 8,
    "vocab_size": 131072,
}


def test_mistrals_own_configuration() -> None:
    result = shape(MINISTRAL)
    assert [(row.count, row.width, row.window) for row in result.layers] == [(36, 2 * 8 * 128, None)]
    assert (result.hidden, result.intermediate, result.vocabulary) == (4096, 12288, 131072)
    assert (result.longest, result.dtype, result.unknown) == (128000, "bfloat16", ())
    windows = shape(MINISTRAL | {"sliding_window": [None, 32768, 32768, 32768], "max_position_embeddings": 32768})
    assert [(row.count, row.window) for row in windows.layers] == [(9, None), (27, 32768)]
    yarn = {"original_max_position_embeddings": 8192, "factor": 4, "beta": 32}
    assert shape(MINISTRAL | {"yarn": yarn, "max_position_embeddings": 32768}).longest == 32768
    experts = MINISTRAL | {"moe": {"num_experts": 8, "num_experts_per_tok": 2}}
    assert shape(experts).intermediate == 2 * 12288
    assert shape(MINISTRAL | {"quantization": {"qformat_weight": "fp8_e4m3"}}).quantised == "fp8"


def test_unknown_values_are_listed() -> None:
    hybrid = QWEN3_8B | {"model_type": "qwen3_next", "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 9}
    assert shape(hybrid).unknown == ("27 of its 36 layers keep another state than a KV cache",)
    assert shape(hybrid).layers == ()
    mamba = {"model_type": "mamba2", "num_hidden_layers": 64, "hidden_size": 2560, "vocab_size": 50280}
    assert shape(mamba).unknown == ("jbuild cannot estimate the state of a mamba2 model",)
    assert shape({}).unknown == (
        "config.json does not say how many layers it has (`num_hidden_layers`)",
        "config.json does not say how many heads it has (`num_attention_heads`)",
        "config.json does not say how wide it is (`hidden_size`)",
        "config.json does not say how many tokens it knows (`vocab_size`)",
    )
    assert shape(LLAMA_3_1_8B | {"num_hidden_layers": 10**9}).unknown == (
        "config.json has 1000000000 layers, which is too many",
    )


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'"text"'])
def test_no_configuration(text: bytes) -> None:
    with pytest.raises(ModelError, match=r"model tiny: config\.json is not") as caught:
        read_shape("tiny", "somewhere", text)
    assert (caught.value.where, caught.value.exit_code) == ("somewhere", 9)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*LLAMA_3_1_8B, "text_config", "layer_types", "sliding_window"]), ANY))
def test_any_values_are_read_or_noted(changes: dict[str, Any]) -> None:
    result = shape(LLAMA_3_1_8B | changes)
    assert result.unknown or result.layers

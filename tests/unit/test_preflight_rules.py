"""The pre-flight's rules: one server each that starts, and one that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_platform
from fit_parts import LLAMA_3_1_8B
from preflight_parts import CHAT, FACTS, LIBRARY, make_context, make_served

from builder.image.runtime import settings
from builder.model.recipes import Question
from builder.models.fit.weights import ModelFiles
from builder.models.preflight.lora_rules import MODELS
from builder.models.preflight.model_facts import read_model
from builder.models.preflight.preflight import findings
from builder.models.preflight.quantization_rules import methods
from builder.models.preflight.quantized_shapes import quantization_shapes
from builder.models.preflight.wheel_sources import Sources

if TYPE_CHECKING:
    from pathlib import Path

    from builder.models.preflight.server_context import ServerContext

AWQ = {"quant_method": "awq", "bits": 4}
GPTQ = {"quant_method": "gptq", "bits": 4, "sym": True}


def found(context: ServerContext) -> list[str]:
    return [f"{finding.severity} {finding.rule}" for finding in findings(context)]


def text(context: ServerContext) -> str:
    (finding,) = findings(context)
    return f"{finding.wheel}: {finding.file} {finding.detail}; {finding.fix}"


# The sizes in the models' own config.json.
SMOLLM2_135M: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
LLAMA_32_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
QWEN25_05B = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
TINYLLAMA = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4}
GROUPS: dict[str, Any] = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True}}
AWQ_GROUPS = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}}
ONE_GROUP_OF_4_BITS = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": True}}
ONE_GROUP = {"quantization_config": {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}}
# Its attention has 320 outputs, which Machete takes.
NARROW = LLAMA_32_1B | {"hidden_size": 1024, "num_attention_heads": 10, "num_key_value_heads": 1, "head_dim": 32}
MARLIN = replace(FACTS, marlin_multiples=(128, 64))


@pytest.mark.parametrize(
    ("config", "arguments", "changes", "expected"),
    [
        (SMOLLM2_135M | GROUPS, (), {}, ["error quantization-shape"]),
        (SMOLLM2_135M | AWQ_GROUPS, (), {}, ["warning quantization-shape"]),
        (LLAMA_32_1B | GROUPS, (), {}, []),
        (QWEN25_05B | GROUPS, (), {}, []),
        (TINYLLAMA | GROUPS, (), {}, []),
        (SMOLLM2_135M, (), {}, []),
        (SMOLLM2_135M | ONE_GROUP, (), {}, []),
        (SMOLLM2_135M | GROUPS, (), {"dtype": "float16"}, []),
        (SMOLLM2_135M | ONE_GROUP_OF_4_BITS, (), {"dtype": "float16"}, ["error quantization-shape"]),
        (SMOLLM2_135M | GROUPS, (), {"facts": FACTS}, []),
        (SMOLLM2_135M | GROUPS | {"model_type": "bert"}, (), {}, []),
        (SMOLLM2_135M | GROUPS, (), {"platform": make_platform()}, ["error quantization-type"]),
        (SMOLLM2_135M | GROUPS, ("-tp", "3"), {}, ["error parallel-size"]),
        (SMOLLM2_135M | GROUPS, (), {"versions": {"conch-triton-kernels": "1.0", "transformers": "5"}}, []),
        (SMOLLM2_135M | GROUPS, (), {"boards": {"h200": 90}}, ["error quantization-shape"]),
        (NARROW | GROUPS, (), {}, ["error quantization-shape"]),
        (NARROW | GROUPS, (), {"boards": {"h200": 90}}, []),
    ],
)
def test_sizes_that_no_quantised_kernel_takes(
    config: dict[str, Any], arguments: tuple[str, ...], changes: dict[str, Any], expected: list[str]
) -> None:
    assert found(make_context(make_served(**config), *arguments, **({"facts": MARLIN} | changes))) == expected


def test_types_are_those_of_vllms_own_classes() -> None:
    for kind in ("llama", "mistral", "qwen2", "qwen3"):
        model = make_served(**(SMOLLM2_135M | GROUPS | {"model_type": kind}))
        assert len([*quantization_shapes(make_context(model, facts=MARLIN))]) == 1


def test_the_layers_are_named_with_their_sizes() -> None:
    said = text(make_context(make_served(**SMOLLM2_135M, **GROUPS), facts=MARLIN))
    assert "qkv_proj (576 inputs, 960 outputs), o_proj (576 inputs, 576 outputs), gate_up_proj (576 inputs" in said
    assert "down_proj" not in said
    assert "no other kernel of vLLM takes them in bfloat16" in said
    assert 'set dtype = "float16" under [server]' in said


def test_a_plain_server_has_no_findings() -> None:
    assert found(make_context(make_served(), "--enforce-eager", max_model_len=2048)) == []


@pytest.mark.parametrize(
    ("model", "arguments", "changes", "expected"),
    [
        ({}, ("--warm-up",), {}, ["error server-option"]),
        ({}, ("--tool-call-parser", "hermes", "--enable-auto-tool-choice"), {}, []),
        ({}, ("--enable-auto-tool-choice",), {}, ["error server-parser"]),
        ({}, ("--tool-call-parser", "herms"), {}, ["error server-parser"]),
        ({}, ("--tool-call-parser", "ours", "--tool-parser-plugin", "/x.py"), {}, []),
        ({}, ("--reasoning-parser", "hermes"), {}, ["error server-parser"]),
        ({}, (), {"max_model_len": 2049}, ["error context-length"]),
        ({}, ("--max-model-len", "3k"), {}, ["error context-length"]),
        ({"model_max_length": 8192}, (), {"max_model_len": 8192}, []),
        ({"max_position_embeddings": None}, (), {"max_model_len": 8192}, []),
        ({}, (), {"max_model_len": 8192, "environment": (("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1"),)}, []),
        ({}, ("-tp", "2"), {}, ["error parallel-size"]),
        ({}, ("-tp", "5"), {"platform": make_platform()}, ["error parallel-size"]),
        ({}, ("-tp", "2"), {"platform": make_platform()}, []),
        ({}, ("--pipeline-parallel-size", "2"), {}, ["error parallel-size"]),
        ({"quantization_config": GPTQ}, (), {"quantization": "awq"}, ["error quantization-method"]),
        ({"quantization_config": GPTQ}, (), {"quantization": "gptq_marlin"}, []),
        ({"quantization_config": GPTQ}, (), {"quantization": "marlin"}, []),
        ({"quantization_config": GPTQ | {"sym": False}}, (), {}, ["error quantization-type"]),
        ({"quantization_config": AWQ}, (), {}, []),
        ({"quantization_config": AWQ}, (), {"quantization": "awq"}, ["error quantization-type"]),
        ({"quantization_config": AWQ}, (), {"quantization": "awq", "dtype": "half"}, []),
        ({"quantization_config": AWQ}, (), {"platform": make_platform()}, []),
        (
            {"quantization_config": AWQ},
            (),
            {"platform": make_platform(), "dtype": "float32"},
            ["error quantization-type"],
        ),
        ({"quantization_config": {"quant_method": "modelopt"}}, (), {}, ["error quantization-gpu"]),
        (
            {"quantization_config": {"quant_method": "modelopt"}},
            (),
            {"boards": {"agx-orin-64": 87, "agx-thor": 110}},
            ["warning quantization-gpu"],
        ),
        ({"quantization_config": {"quant_method": "modelopt"}}, (), {"boards": {"agx-thor": 110}}, []),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, (), {}, ["error quantization-package"]),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            (),
            {"versions": {"bitsandbytes": "0.49.0", "transformers": "5"}},
            [],
        ),
        ({"quantization_config": {"quant_method": "exl9"}}, (), {}, ["error quantization-method"]),
        ({}, (), {"quantization": "exl9"}, ["error quantization-method"]),
        ({}, (), {"quantization": "ptpc_fp8"}, ["error quantization-method"]),
        ({}, ("--allow-deprecated-quantization",), {"quantization": "ptpc_fp8"}, []),
        ({}, ("--kv-cache-dtype", "fp8"), {}, ["warning cache-type"]),
        ({}, ("--kv-cache-dtype", "fp8"), {"boards": {"agx-thor": 110}}, []),
        ({"architectures": ["Phi3SmallForCausalLM"]}, (), {}, ["error model-class"]),
        ({"architectures": ["NoSuchForCausalLM"]}, (), {}, ["error model-class"]),
        ({"architectures": ["Olmo9ForCausalLM"], "model_type": "olmo9"}, (), {}, ["warning model-class"]),
        ({"architectures": ["NoSuchForCausalLM"]}, ("--model-impl", "transformers"), {}, []),
        ({"model_type": "llama9"}, (), {}, ["error model-class"]),
        ({"model_type": "chatglm"}, (), {}, []),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}},
            (),
            {},
            ["error model-code"],
        ),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}},
            ("--trust-remote-code",),
            {},
            ["error model-code"],
        ),
        ({"auto_map": {"AutoConfig": "configuration_llama.LlamaConfig"}}, (), {}, []),
        ({"architectures": ["BertModel"], "model_type": "bert"}, (), {}, ["error model-task"]),
        ({"architectures": ["BertModel"], "model_type": "bert"}, (), {"questions": ()}, []),
        ({}, ("--runner", "pooling"), {}, ["error model-task"]),
        ({}, ("--runner", "generate"), {}, []),
        (
            {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"},
            (),
            {},
            ["warning processor-files"],
        ),
        (
            {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "llava"},
            (),
            {},
            ["error processor-files"],
        ),
        (
            {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"},
            ("--language-model-only",),
            {},
            [],
        ),
    ],
)
def test_servers_and_their_findings(
    model: dict[str, Any], arguments: tuple[str, ...], changes: dict[str, Any], expected: list[str]
) -> None:
    assert found(make_context(make_served(**model), *arguments, **changes)) == expected


def test_code_that_is_trusted_and_there() -> None:
    model = make_served(
        paths=("tokenizer.json", "configuration_own.py"),
        model_type="own",
        auto_map={"AutoConfig": "configuration_own.OwnConfig"},
    )
    assert found(make_context(model, "--trust-remote-code")) == []


@pytest.mark.parametrize(
    ("model", "arguments", "changes", "expected"),
    [
        ({"tokenizer": {}}, (), {}, ["error chat-template"]),
        ({"tokenizer": {}}, ("--chat-template", "/t.jinja"), {}, []),
        ({"tokenizer": {}}, (), {"questions": (Question(prompt="The capital", expect="Paris"),)}, []),
        ({"tokenizer": {}, "paths": ("tokenizer.json", "chat_template.jinja")}, (), {}, []),
        ({"tokenizer": {}, "paths": ("tekken.json",)}, (), {}, []),
        ({"tokenizer": {}, "architectures": None, "model_type": "blip-2"}, (), {"sources": None}, []),
        ({"paths": ()}, (), {}, ["error tokenizer-files"]),
        ({"paths": ()}, ("--skip-tokenizer-init",), {}, []),
        ({"paths": ("tokenizer.model",)}, (), {}, ["error tokenizer-files"]),
        ({"paths": ("tokenizer.model",)}, (), {"versions": {"sentencepiece": "0.2"}}, []),
        ({"paths": ("spiece.model",)}, (), {"versions": {"tiktoken": "0.2"}}, ["error tokenizer-files"]),
        ({"paths": ("qwen.tiktoken",)}, (), {}, []),
        ({"paths": ("vocab.json", "merges.txt")}, (), {}, []),
    ],
)
def test_tokenizers_and_templates(
    model: dict[str, Any], arguments: tuple[str, ...], changes: dict[str, Any], expected: list[str]
) -> None:
    if changes.pop("sources", CHAT) is None:
        changes["sources"] = make_context().sources
        changes["sources"] = Sources(vllm=changes["sources"].vllm)
    assert found(make_context(make_served(**model), *arguments, **changes)) == expected


COMPILATION = "--compilation-config"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((COMPILATION, '{"mode": 3, "pass_config": {"fuse_norm_quant": true}, "inductor_config": {"any": 1}}'), []),
        ((COMPILATION, '{"mode": 8k}'), []),
        ((COMPILATION, "3"), []),
        ((f"{COMPILATION}.pass_config.fuse_norm_quant=true", f"{COMPILATION}.mode", "3"), []),
        ((COMPILATION, '{"mode": 3,}'), ["error server-option"]),
        ((COMPILATION, '{"mod": 3}'), ["error server-option"]),
        ((COMPILATION, '{"pass_config": {"fuse_norm": 1}, "level": 3}'), ["error server-option"] * 2),
        ((f"{COMPILATION}.pass_config.fuse_norm=true",), ["error server-option"]),
        (("--limit-mm-per-prompt", '{"image": 2, "video": {"count": 1}}'), []),
        (("--limit-mm-per-prompt", "image=2"), []),
        (("--limit-mm-per-prompt.image", "2"), []),
        (("--limit-mm-per-prompt", '{"image": "two"}'), ["error server-option"]),
        (("--limit-mm-per-prompt", '{"image": -1'), ["error server-option"]),
        # A release whose class does not refuse the key ignores it.
        (("--pooler-config", '{"pooling": "MEAN"}'), ["warning server-option"]),
    ],
)
def test_the_keys_of_json_values(arguments: tuple[str, ...], expected: list[str]) -> None:
    assert found(make_context(make_served(), *arguments)) == expected


def test_a_key_is_named_with_the_nearest_one_and_its_place() -> None:
    assert text(make_context(make_served(), COMPILATION, '{"pass_config": {"fuse_norm": 1}}')) == (
        "server: --compilation-config has no key `pass_config.fuse_norm` in vLLM 0.20.2; "
        "did you mean `pass_config.fuse_norm_quant`?"
    )


ADAPTERS: dict[str, dict[str, Any]] = {"": {"r": 8}, "german": {"r": 64, "base_model_name_or_path": "acme/base"}}
LORA = ("--enable-lora", "--lora-modules")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*LORA, "a=/models/m"), []),
        ((*LORA, "a=/models/m", '{"name": "b", "path": "/models/m", "base_model_name": "m"}'), []),
        # It may be mounted, or come from the hub.
        ((*LORA, "a=/adapters/a", "b=acme/adapter"), []),
        (("--lora-modules", "a=/models/m"), ["error lora-modules"]),
        ((*LORA, "/models/m"), ["error lora-modules"]),
        ((*LORA, "a=b=c"), ["error lora-modules"]),
        ((*LORA, '{"name": "a", "folder": "/models/m"}'), ["error lora-modules"]),
        ((*LORA, '[{"name": "a", "path": "/models/m"}]'), ["error lora-modules"]),
        ((*LORA, "a=/models/other"), ["error lora-modules"]),
        ((*LORA, "a=/models/m/french"), ["error lora-modules"]),
        ((*LORA, "a=/models/m/german"), ["error lora-modules"]),
        ((*LORA, "a=/models/m/german", "--max-lora-rank", "64"), []),
        # The last one counts.
        ((*LORA, "a=/models/other", "--lora-modules", "a=/models/m"), []),
    ],
)
def test_lora_modules(arguments: tuple[str, ...], expected: list[str]) -> None:
    model = replace(make_served(), adapters=ADAPTERS, source="./base")
    assert found(make_context(model, *arguments, models=("m",))) == expected


def test_an_adapter_for_another_model_of_the_hub_is_warned_of() -> None:
    arguments = (*LORA, "a=/models/m/german", "--max-lora-rank=64")
    sources: dict[str, list[str]] = {"hf://acme/base@main": [], "hf://acme/Other@main": ["warning lora-modules"]}
    for source, expected in sources.items():
        model = replace(make_served(), adapters=ADAPTERS, source=source)
        assert found(make_context(model, *arguments, models=("m",))) == expected


def test_advice_about_lora_modules_says_where_adapters_are() -> None:
    model = replace(make_served(), adapters=ADAPTERS)
    assert text(make_context(model, *LORA, "a=/models/m/french", models=("m",))) == (
        "server: --lora-modules names /models/m/french, where the model has no adapter_config.json; "
        "the model's adapters are in german"
    )
    assert str(MODELS) == str(settings.MODELS)


def test_adapters_are_read_with_their_folders(tmp_path: Path) -> None:
    (tmp_path / "german").mkdir()
    (tmp_path / "german" / "adapter_config.json").write_text('{"r": 4}')
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    sizes = {"config.json": 1, "german/adapter_config.json": 1}
    model = read_model(ModelFiles(name="m", source="hf://a/b@main", sizes=sizes, find=tmp_path.joinpath))
    assert (model.adapters, model.source) == ({"german": {"r": 4}}, "hf://a/b@main")


def test_advice_names_the_nearest_option() -> None:
    assert "--tensor-parallel-size" in text(make_context(make_served(), "--tensor-paralel-size", "1"))


def test_findings_read_as_sentences() -> None:
    quantised = make_served(quantization_config=GPTQ)
    assert text(make_context(quantised, quantization="awq")) == (
        "model m: config.json says gptq, and the server is set to quantization awq: vLLM refuses to start; "
        "leave `quantization` out of [server]"
    )
    assert text(make_context(make_served(), max_model_len=4096)).startswith(
        "model m: config.json allows 2048 tokens, and the server is set to max-model-len 4096; set "
        "max-model-len to 2048 or less"
    )


def test_without_facts_about_the_release_only_the_model_is_checked() -> None:
    nothing = Sources(transformers=LIBRARY)
    assert found(make_context(make_served(), "--no-such-option", sources=nothing)) == []
    assert found(make_context(make_served(), sources=nothing, max_model_len=4096)) == ["error context-length"]
    assert found(make_context(make_served(), "-tp", "2", sources=nothing)) == ["error parallel-size"]
    assert found(make_context(make_served(tokenizer={}), sources=nothing)) == ["error chat-template"]


def test_what_could_not_be_read_is_said() -> None:
    context = make_context(None, sources=Sources(unread="no answer"), unread="config.json is not here")
    assert [finding.detail for finding in findings(context)] == [
        "was not checked: config.json is not here",
        "was not checked: no answer",
    ]
    assert found(context) == ["info preflight", "info preflight"]


def test_every_method_has_itself_among_the_accepted() -> None:
    assert all(row.name in row.accepts for row in methods().values())
    assert set(FACTS.quantizations) >= {"awq", "gptq"}


@pytest.mark.parametrize(
    ("config", "beside", "method"),
    [
        ({"quantization_config": {"quant_method": "compressed_tensors"}}, None, "compressed-tensors"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, None, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, None, "modelopt_fp4"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, None, "modelopt"),
        ({}, {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "modelopt_fp4"),
        ({}, None, None),
        ({}, [], None),
    ],
)
def test_the_quantisation_of_a_checkpoint(
    tmp_path: Path, config: dict[str, Any], beside: Any, method: str | None
) -> None:
    files = model_files(tmp_path, {"config.json": LLAMA_3_1_8B | config, "hf_quant_config.json": beside})
    assert read_model(files).quantization.get("quant_method") == method


def model_files(folder: Path, documents: dict[str, Any]) -> ModelFiles:
    for name, document in documents.items():
        if document is not None:
            (folder / name).write_text(json.dumps(document))
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return ModelFiles(
        name="m", source="folder", sizes=sizes, find=lambda path: folder / path if path in sizes else None
    )

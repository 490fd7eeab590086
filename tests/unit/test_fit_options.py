from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fit_parts import make_shape

from builder.model.recipes import ServerSpec
from builder.models.fit.server_options import option, pinned_version, settings_of

if TYPE_CHECKING:
    from builder.models.fit.memory_estimate import ServingSettings

GIB = 1 << 30


def settings(*arguments: str, environment: dict[str, str] | None = None, **changes: Any) -> ServingSettings:
    context: dict[str, Any] = {"gpu": True, "vllm": "0.15"}
    context |= {name: changes.pop(name) for name in ("gpu", "vllm", "memory") if name in changes}
    shape = make_shape(**changes.pop("shape", {}))
    server = ServerSpec(arguments=arguments, environment=tuple((environment or {}).items()), **changes)
    return settings_of(server, shape, **context)


def test_defaults_of_a_gpu_server() -> None:
    serving = settings()
    assert (serving.length, serving.sequences, serving.batched_tokens, serving.most_sequences) == (131072, 1, 2048, 256)
    assert (serving.block, serving.utilization, serving.dtype, serving.kv_dtype) == (16, 0.9, "bfloat16", "bfloat16")
    assert (serving.hybrid, serving.eager, serving.kv_space) == (True, False, None)
    assert serving.remarks == ("--gpu-memory-utilization is not set: the estimate assumes 0.9, vLLM 0.15's default",)


def test_a_large_gpu_takes_larger_batches() -> None:
    """`get_batch_defaults` of vLLM: from 70 GiB on."""
    assert settings(memory=122 * GIB).batched_tokens == 8192
    assert settings(memory=122 * GIB).most_sequences == 1024
    assert settings(memory=61 * GIB).batched_tokens == 2048
    assert settings(memory=122 * GIB, gpu=False).batched_tokens == 2048


def test_defaults_of_a_server_on_the_cpu() -> None:
    serving = settings(gpu=False, environment={"VLLM_CPU_KVCACHE_SPACE": "4"})
    assert (serving.block, serving.most_sequences, serving.kv_space) == (128, 128, 4 * GIB)
    assert serving.remarks == ()
    assert settings(environment={"VLLM_CPU_KVCACHE_SPACE": "4"}).kv_space is None


@pytest.mark.parametrize(
    ("vllm", "share"), [("0.15", 0.9), ("0.19", 0.9), ("0.20", 0.92), ("0.33", 0.92), ("1.0", 0.92), (None, 0.9)]
)
def test_the_share_depends_on_the_version(vllm: str | None, share: float) -> None:
    assert settings(vllm=vllm).utilization == share


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-num-seqs=8", "--gpu-memory-utilization=0.7", "--kv-cache-dtype=fp8", "--max-num-batched-tokens=512"),
        (
            *("--max-num-seqs", "8", "--gpu_memory_utilization", ".7"),
            *("--kv-cache-dtype", "fp8", "--max_num_batched_tokens", "512"),
        ),
    ],
)
def test_arguments(arguments: tuple[str, ...]) -> None:
    serving = settings(*arguments, "--block-size=32", "--enforce-eager", "--disable-hybrid-kv-cache-manager")
    assert (serving.sequences, serving.most_sequences, serving.utilization) == (8, 8, 0.7)
    assert (serving.kv_dtype, serving.batched_tokens, serving.block) == ("fp8", 512, 32)
    assert (serving.eager, serving.hybrid, serving.remarks) == (True, False, ())


def test_the_last_value_of_an_option_holds() -> None:
    assert option(["--a=1", "--a", "2"], "--a") == "2"
    assert option(["--a"], "--a") is None
    assert option(["--ab=1"], "--a") is None


def test_environment_wins() -> None:
    environment = {
        "JBUILD_MAX_MODEL_LEN": "1024",
        "JBUILD_DTYPE": "float16",
        "JBUILD_GPU_MEMORY_UTILIZATION": "0.5",
        "JBUILD_EXTRA_ARGS": "--max-num-seqs=2",
    }
    serving = settings("--max-num-seqs=8", environment=environment, max_model_len=2048, dtype="float32")
    assert (serving.length, serving.dtype, serving.utilization, serving.sequences) == (1024, "float16", 0.5, 2)
    assert settings(environment={"JBUILD_EXTRA_ARGS": "'"}).sequences == 1
    assert settings(environment={"JBUILD_EXTRA_ARGS": '["--max-num-seqs", "3"]'}).sequences == 3
    assert settings(environment={"JBUILD_EXTRA_ARGS": '["--max-num-seqs'}).sequences == 1


@pytest.mark.parametrize(
    ("option_value", "config", "dtype"),
    [
        (None, "bfloat16", "bfloat16"),
        ("auto", "float16", "float16"),
        ("auto", "float32", "bfloat16"),
        ("float32", "bfloat16", "float32"),
        ("half", "bfloat16", "float16"),
        ("float", "bfloat16", "float32"),
    ],
)
def test_the_type_that_the_server_runs(option_value: str | None, config: str, dtype: str) -> None:
    assert settings(dtype=option_value, shape={"dtype": config}).dtype == dtype


def test_lengths() -> None:
    assert settings(max_model_len=2048).length == 2048
    assert settings(shape={"longest": None}).length == 2048
    assert settings(max_model_len=64, shape={"longest": None}).batched_tokens == 2048
    assert settings("--max-num-seqs=2", max_model_len=64).batched_tokens == 128


@pytest.mark.parametrize("text", ["", "0", "-1", "2", "abc", "0.5.5", "nan", "1e9"])
def test_invalid_values_are_ignored(text: str) -> None:
    serving = settings(f"--gpu-memory-utilization={text}", f"--max-num-seqs={'x' + text}")
    assert (serving.utilization, serving.most_sequences) == (0.9, 256)


def test_uncounted_options_are_in_the_remarks() -> None:
    serving = settings(quantization="fp8", max_model_len=200_000)
    assert serving.remarks[1:] == ("quantization fp8 at load time is not counted, so the weights are an upper bound",)
    assert settings(quantization="awq", shape={"quantised": "awq"}).remarks[1:] == ()


@pytest.mark.parametrize(
    ("requires", "version"),
    [
        (("vllm==0.20.2",), "0.20"),
        (("numpy<2", "VLLM-CPU == 0.15.1"), "0.15"),
        (("vllm>=0.9",), None),
        ((), None),
    ],
)
def test_the_version_that_a_recipe_pins(requires: tuple[str, ...], version: str | None) -> None:
    assert pinned_version(requires) == version


@pytest.mark.parametrize(
    ("vllm", "own", "used"),
    [
        ("0.15", "fp8", "fp8"),
        ("0.20", "fp8", "fp8"),
        (None, "fp8", "fp8"),
        ("0.10", "fp8", "bfloat16"),
        ("0.20", "nvfp4", "nvfp4"),
        ("0.15", "nvfp4", "bfloat16"),
        ("0.20", None, "bfloat16"),
    ],
)
def test_the_type_of_the_cache_that_the_model_asks_for(vllm: str | None, own: str | None, used: str) -> None:
    serving = settings(vllm=vllm, shape={"kv_dtype": own})
    assert serving.kv_dtype == used
    assert any("asks for a KV cache in" in remark for remark in serving.remarks) == bool(own)


def test_the_servers_own_type_of_the_cache_counts_more() -> None:
    assert settings("--kv-cache-dtype=bfloat16", shape={"kv_dtype": "fp8"}).kv_dtype == "bfloat16"
    assert settings(gpu=False, shape={"kv_dtype": "fp8"}).kv_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("vllm", "used"), [("0.10", "fp8_e5m2"), ("0.15", "fp8"), ("0.20", "fp8"), ("0.33", "fp8_e5m2")]
)
def test_compressed_tensors_override_the_option_in_some_versions(vllm: str, used: str) -> None:
    shape = {"kv_dtype": "fp8", "quantised": "compressed-tensors"}
    assert settings("--kv-cache-dtype=fp8_e5m2", vllm=vllm, shape=shape).kv_dtype == used

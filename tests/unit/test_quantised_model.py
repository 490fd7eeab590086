"""scripts/quantised_model.py: 4-bit checkpoints, read back by the formats' own formulas instead of the writer's."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

import quantised_model
from bfloat16 import from_bf16, to_bf16
from four_bits import FourBitWeight, quantise
from hf_folder import Tensor, read_safetensors, write_folder
from packed_formats import FORMATS
from padded_llama import padded, padded_config, padded_sizes, sizes_of
from tiny_model import tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt

GROUP = 32
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "rms_norm_eps": 1e-05,
}


def random_weight(outputs: int = 48, inputs: int = 96) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.05, (outputs, inputs)).astype(np.float32)


def words_of(tensor: Tensor) -> list[list[int]]:
    rows, columns = tensor.shape
    words = struct.unpack(f"<{rows * columns}I", tensor.data)
    return [list(words[row * columns : (row + 1) * columns]) for row in range(rows)]


def by_name(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}


def gptq_integers(qweight: Tensor) -> list[list[int]]:
    """By output and input: bits 4i of word k are of input 8k + i (AutoGPTQ, qlinear_cuda_old.py)."""
    words = words_of(qweight)
    inputs, outputs = 8 * len(words), len(words[0])
    return [[words[i // 8][o] >> 4 * (i % 8) & 15 for i in range(inputs)] for o in range(outputs)]


def gptq_zero_points(qzeros: Tensor) -> list[list[int]]:
    """By output and group: stored less one, packed along the outputs."""
    words = words_of(qzeros)
    return [[(row[o // 8] >> 4 * (o % 8) & 15) + 1 for row in words] for o in range(8 * len(words[0]))]


def awq_integers(packed: Tensor) -> list[list[int]]:
    """By output and row: output 8k + j is in the bits of word k that AutoAWQ's packing_utils.py gives."""
    words = words_of(packed)
    reverse = (0, 4, 1, 5, 2, 6, 3, 7)
    return [[row[o // 8] >> 4 * reverse[o % 8] & 15 for row in words] for o in range(8 * len(words[0]))]


@pytest.mark.parametrize("zero_points", [False, True])
def test_scale_times_integer_is_exact_in_bfloat16_and_float16(zero_points: bool) -> None:
    weight = quantise(random_weight(), GROUP, zero_points=zero_points).dequantised()
    assert (from_bf16(to_bf16(weight)).reshape(weight.shape) == weight).all()
    assert (weight.astype(np.float16).astype(np.float32) == weight).all()


@pytest.mark.parametrize(("zero_points", "largest"), [(False, 0.13), (True, 0.13)])
def test_rounding_changes_weights_little(zero_points: bool, largest: float) -> None:
    weight = random_weight()
    error = quantise(weight, GROUP, zero_points=zero_points).dequantised() - weight
    assert np.linalg.norm(error) < largest * np.linalg.norm(weight)


@pytest.mark.parametrize("zero_points", [False, True])
def test_zeros_stay_zeros(zero_points: bool) -> None:
    quantised = quantise(np.zeros((8, 64), np.float32), GROUP, zero_points=zero_points)
    assert (quantised.dequantised() == 0).all()
    assert (quantised.scales > 0).all()


def test_four_bit_weights_are_kept() -> None:
    integers = np.random.default_rng(1).integers(0, 16, (16, 64)).astype(np.uint8)
    integers[:, ::GROUP] = 0  # the largest magnitude, -8, decides the scale
    exact = FourBitWeight(
        values=integers, scales=np.full((16, 2), 0.0625, np.float32), zeros=np.full((16, 2), 8, np.uint8)
    )
    assert (quantise(exact.dequantised(), GROUP, zero_points=False).dequantised() == exact.dequantised()).all()


def test_gptq_unpacks_to_the_same_integers() -> None:
    weight = quantise(random_weight(), GROUP, zero_points=False)
    tensors = by_name(FORMATS["gptq"].tensors("layer", weight))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == {
        "layer.qweight": ("I32", (96 // 8, 48)),
        "layer.qzeros": ("I32", (3, 48 // 8)),
        "layer.scales": ("F16", (3, 48)),
        "layer.g_idx": ("I32", (96,)),
    }
    assert gptq_integers(tensors["layer.qweight"]) == weight.values.tolist()
    assert gptq_zero_points(tensors["layer.qzeros"]) == weight.zeros.tolist() == [[8] * 3] * 48
    assert (weight.scales == np.frombuffer(tensors["layer.scales"].data, "<f2").reshape(3, 48).T).all()
    assert np.frombuffer(tensors["layer.g_idx"].data, "<i4").tolist() == [i // GROUP for i in range(96)]


def test_awq_unpacks_to_the_same_integers() -> None:
    weight = quantise(random_weight(), GROUP, zero_points=True)
    tensors = by_name(FORMATS["awq"].tensors("layer", weight))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == {
        "layer.qweight": ("I32", (96, 48 // 8)),
        "layer.qzeros": ("I32", (3, 48 // 8)),
        "layer.scales": ("F16", (3, 48)),
    }
    assert awq_integers(tensors["layer.qweight"]) == weight.values.tolist()
    assert awq_integers(tensors["layer.qzeros"]) == weight.zeros.tolist()
    assert len(set(weight.zeros.ravel().tolist())) > 1


def test_padded_sizes_suit_marlin_and_transformers() -> None:
    old = sizes_of(SMOLLM2)
    new = padded_sizes(old)
    assert (new.hidden, new.intermediate, new.heads, new.kv_heads, new.head) == (768, 1536, 12, 4, 64)
    for inputs in (new.hidden, new.queries, new.intermediate):
        assert inputs % 128 == 0
    # vLLM merges q, k and v, and gate and up.
    for outputs in (new.queries + 2 * new.keys, new.hidden, 2 * new.intermediate):
        assert outputs % 128 == 0
    assert new.hidden % new.heads == 0
    assert padded_sizes(new) == new


def test_a_padded_norm_computes_the_same() -> None:
    old = sizes_of(SMOLLM2)
    new = padded_sizes(old)
    random = np.random.default_rng(2)
    inputs, weight = random.normal(size=576), random.normal(size=576).astype(np.float32)
    wide = np.zeros(new.hidden)
    wide[:576] = inputs
    scaled = padded("model.norm.weight", weight, old, new)
    epsilon = padded_config(SMOLLM2, new)["rms_norm_eps"]
    expected = inputs / np.sqrt(np.mean(inputs**2) + SMOLLM2["rms_norm_eps"]) * weight
    computed = wide / np.sqrt(np.mean(wide**2) + epsilon) * scaled
    assert np.allclose(computed[:576], expected, rtol=1e-6)
    assert (computed[576:] == 0).all()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_folder(tmp_path / "Tiny", tiny_model(hidden=64))
    return tmp_path / "Tiny"


def run(source: Path, *arguments: str) -> int:
    return quantised_model.main([str(source), *arguments])


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_both_folders_have_the_same_weights(source: Path, name: str) -> None:
    assert run(source, "--format", name) == 0
    folder = source.with_name(f"Tiny-{FORMATS[name].title}")
    quantised = by_name(read_safetensors(folder / "model.safetensors"))
    plain = by_name(read_safetensors(folder.with_name(f"{folder.name}-dequantised") / "model.safetensors"))
    layer = "model.layers.1.mlp.down_proj"
    weight = plain[f"{layer}.weight"]
    assert weight.shape == (128, 128)
    qweight, qzeros = quantised[f"{layer}.qweight"], quantised[f"{layer}.qzeros"]
    integers = gptq_integers(qweight) if name == "gptq" else awq_integers(qweight)
    zeros = gptq_zero_points(qzeros) if name == "gptq" else awq_integers(qzeros)
    scales = np.frombuffer(quantised[f"{layer}.scales"].data, "<f2").reshape(4, 128).T.astype(np.float32)
    centred = np.array(integers, np.float32) - np.repeat(np.array(zeros, np.float32), GROUP, axis=1)
    assert to_bf16(centred * np.repeat(scales, GROUP, axis=1)) == weight.data
    assert quantised["model.embed_tokens.weight"] == plain["model.embed_tokens.weight"]
    assert f"{layer}.weight" not in quantised


def test_the_configuration_names_the_quantisation(source: Path) -> None:
    assert run(source, "--format", "gptq", "--group", "64") == 0
    config = json.loads((source.with_name("Tiny-GPTQ") / "config.json").read_text())
    section = config.pop("quantization_config")
    assert (section["quant_method"], section["bits"], section["group_size"], section["sym"]) == ("gptq", 4, 64, True)
    assert json.loads((source.with_name("Tiny-GPTQ-dequantised") / "config.json").read_text()) == config
    assert (source.with_name("Tiny-GPTQ") / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_complete_folders_stay_unchanged(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source) == 0
    weights = source.with_name("Tiny-GPTQ") / "model.safetensors"
    content, inode = weights.read_bytes(), weights.stat().st_ino
    assert run(source) == 0
    assert "already complete" in capsys.readouterr().out
    assert weights.stat().st_ino == inode
    assert run(source, "--group", "64") == 0
    assert weights.read_bytes() != content
    assert run(source) == 0
    assert weights.read_bytes() == content


def test_other_models_are_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source) == 0
    assert run(source.with_name("Tiny-GPTQ")) == 1
    assert "is not a plain Llama model" in capsys.readouterr().err
    assert run(source.with_name("nothing")) == 1
    assert "No such file" in capsys.readouterr().err
    (source / "model.safetensors").write_bytes(b"")
    assert run(source, "--output", str(source / "out")) == 1
    assert "is not a safetensors file" in capsys.readouterr().err
    assert not (source / "out").exists()

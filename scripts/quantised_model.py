"""Quantises a Llama model to 4 bits, and writes it twice: as a GPTQ or AWQ checkpoint, and dequantised.

Servers load the checkpoint with their quantised kernels (Marlin), transformers runs the dequantised model; both have
exactly the same weights, so their tokens can be compared. It needs only numpy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bfloat16 import from_bf16, to_bf16
from four_bits import quantise
from hf_folder import Tensor, is_complete, read_safetensors, replace_folder, write_json, write_safetensors
from packed_formats import FORMATS
from padded_llama import is_quantised, padded, padded_config, padded_sizes, sizes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from packed_formats import PackedFormat

WEIGHTS = "model.safetensors"
GROUPS = (32, 64, 128)
"""Inputs that share a scale, as Marlin supports them. Machete, which vLLM prefers on Hopper GPUs, lacks 32."""

README = """\
---
license: apache-2.0
---
# {name}

Made by jbuild's scripts/quantised_model.py from {source} (weights: sha256 {digest}), {form}.
Every linear layer has 4 bits in groups of {group} inputs, rounded to nearest. Zeros pad the model to sizes that Marlin
supports.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A folder to write: its name, its config.json and its README."""

    folder: Path
    config: Mapping[str, Any]
    readme: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both folders unless they are complete; the exit code is 1 on an error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the folder of a Llama model in bfloat16")
    parser.add_argument("--format", choices=FORMATS, default="gptq", help="the checkpoint's format (default gptq)")
    parser.add_argument(
        "--group", type=int, choices=GROUPS, default=GROUPS[0], help="inputs per scale (default %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="the folder for both folders (default: beside the source)")
    options = parser.parse_args(arguments)
    source: Path = options.source.absolute()
    try:
        write_both(source, (options.output or source.parent).absolute(), FORMATS[options.format], options.group)
    except (OSError, ValueError) as error:
        print(f"quantised_model: {error}", file=sys.stderr)
        return 1
    return 0


def write_both(source: Path, output: Path, packed_format: PackedFormat, group: int) -> None:
    """Write the quantised and the dequantised model of `source` to `output`, unless both are complete.

    Raises:
        FileExistsError: one of the folders exists, and this script did not write it.
        OSError: the source cannot be read, or a folder cannot be written.
        ValueError: the source is not a model that this script can quantise.
    """
    config = _read_config(source)
    quantised, dequantised = _folders(source, output, config, packed_format, group)
    if all(map(_is_written, (quantised, dequantised))):
        print(f"{quantised.folder} and {dequantised.folder} are already complete")
        return
    packed_tensors: list[Tensor] = []
    plain_tensors: list[Tensor] = []
    for pair in _quantised_tensors(source, config, packed_format, group):
        packed_tensors += pair[0]
        plain_tensors.append(pair[1])
    for written, tensors in ((quantised, packed_tensors), (dequantised, plain_tensors)):
        _write(source, written, tensors)
        print(f"{written.folder} written")


def _read_config(source: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if config.get("architectures") != ["LlamaForCausalLM"] or "quantization_config" in config:
        message = f"{source} is not a plain Llama model: choose a folder with LlamaForCausalLM in config.json"
        raise ValueError(message)
    try:
        sizes_of(config)
    except KeyError as error:
        message = f"{source}: config.json lacks the key {error}"
        raise ValueError(message) from error
    return config


def _folders(
    source: Path, output: Path, config: dict[str, Any], packed_format: PackedFormat, group: int
) -> tuple[Written, Written]:
    name = f"{source.name}-{packed_format.title}"
    plain = padded_config(config, padded_sizes(sizes_of(config)))
    digest = hashlib.sha256((source / WEIGHTS).read_bytes()).hexdigest()

    def written(folder: str, extra: Mapping[str, Any], form: str) -> Written:
        readme = README.format(name=folder, source=source.name, digest=digest, form=form, group=group)
        return Written(folder=output / folder, config={**plain, **extra}, readme=readme)

    section = {"quantization_config": packed_format.section(group)}
    return (
        written(name, section, f"in the format of {packed_format.title}"),
        written(f"{name}-dequantised", {}, f"quantised for {packed_format.title} and dequantised to bfloat16"),
    )


def _is_written(written: Written) -> bool:
    readme = written.folder / "README.md"
    return is_complete(written.folder) and readme.read_text(encoding="utf-8") == written.readme


def _quantised_tensors(
    source: Path, config: dict[str, Any], packed_format: PackedFormat, group: int
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield each tensor of the source, padded: in the checkpoint's form, and dequantised."""
    old = sizes_of(config)
    new = padded_sizes(old)
    for tensor in read_safetensors(source / WEIGHTS):
        if tensor.dtype != "BF16":
            message = f"{source / WEIGHTS}: {tensor.name} has type {tensor.dtype}: choose a model in bfloat16"
            raise ValueError(message)
        values = padded(tensor.name, from_bf16(tensor.data).reshape(tensor.shape), old, new)
        if not is_quantised(tensor.name):
            plain = Tensor(name=tensor.name, shape=values.shape, data=to_bf16(values))
            yield [plain], plain
            continue
        weight = quantise(values, group, zero_points=packed_format.zero_points)
        layers = list(packed_format.tensors(tensor.name.removesuffix(".weight"), weight))
        yield layers, Tensor(name=tensor.name, shape=values.shape, data=to_bf16(weight.dequantised()))


def _write(source: Path, written: Written, tensors: Sequence[Tensor]) -> None:
    def fill(folder: Path) -> None:
        for path in sorted(source.iterdir()):
            if path.is_file() and path.name not in ("config.json", WEIGHTS, "README.md"):
                shutil.copyfile(path, folder / path.name)
        write_json(folder / "config.json", written.config)
        (folder / "README.md").write_text(written.readme, encoding="utf-8")
        write_safetensors(folder / WEIGHTS, tensors)

    replace_folder(written.folder, fill)


if __name__ == "__main__":
    sys.exit(main())

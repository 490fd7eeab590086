"""The recipes of the proof on a GPU: the shipped recipe for Hopper GPUs, and variants that differ in one table each.

scripts/gpu_proof/variants.py FOLDER [--only VARIANT] [--quantised FOLDER] [--golden FILE] writes them into the recipes
folder of a jbuild project, and prints their names in the order in which to build them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from gpu_proof.wrong_golden import write_wrong_golden

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
SHIPPED = CHECKOUT / "recipes" / "vllm-0.20.2-gpu.toml"
REPOSITORY = "gpu-proof"
# Greedy answers of a few words, whose tokens are compared with those of a reference on the CPU.
QUESTIONS = (
    {"ask": "What is the capital of France?", "expect": "Paris", "max-tokens": 32},
    {"prompt": "1, 2, 3, 4, 5, 6,", "expect": "7, 8, 9", "max-tokens": 24},
    {"ask": "What is the opposite of hot?", "expect": "cold", "max-tokens": 16},
    {"prompt": "a b c d e f g", "expect": "h i j k", "max-tokens": 24},
    {"ask": "Repeat: the quick brown fox jumps over the lazy dog", "expect": "brown fox", "max-tokens": 20},
)
# Packages that vLLM requires, and that a text model on one GPU does not use.
UNUSED = ("tilelang", "quack-kernels", "nvidia-cutlass-dsl", "opencv-python-headless")
# Files that other libraries open by their names, and a text model on one Hopper GPU does not need: convolutions of
# cuDNN, cuSOLVER and NVSHMEM over several GPUs, triton's profiler and its compiler for Blackwell.
UNUSED_FILES = {
    "nvidia-cudnn-*": [
        *(f"nvidia/cudnn/lib/libcudnn_{name}.so.9" for name in ("adv", "cnn", "engines_*", "heuristic")),
    ],
    "nvidia-cusolver": ["nvidia/cu13/lib/libcusolverMg.so.*"],
    "nvidia-nvshmem-*": [
        *("nvidia/nvshmem/lib/libnvshmem_device.*", "nvidia/nvshmem/lib/nvshmem_transport_*"),
        "nvidia/nvshmem/lib/nvshmem_bootstrap_*",
    ],
    "triton": ["triton/backends/nvidia/lib/cupti/*", "triton/backends/nvidia/bin/ptxas-blackwell"],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A variant: its name and description, the keys that replace those of the shipped recipe, by table."""

    name: str
    description: str
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)


_SLIM = {"slim": True, "slim-packages": {"*": True}}
_LEAST: dict[str, dict[str, Any]] = {
    "image": {**_SLIM, "exclude-files": UNUSED_FILES},
    "packages": {"replace": [f"{name}; python_version < '3'" for name in UNUSED]},
    # Without it, torch's attention on a Hopper GPU prefers cuDNN's engines, and fails where they are left out.
    "server": {"environment": {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}},
}
VARIANTS = (
    Variant(name="gpu-slim", description="without the GPU code for other GPUs", tables={"image": _SLIM}),
    Variant(
        name="gpu-whole",
        description="all GPU code of torch, vLLM and NVIDIA's libraries",
        # 295 MB of kernels for other GPUs, one a file, would only have to travel.
        tables={"image": {"slim": False, "slim-packages": {"flashinfer-cubin": True}}},
    ),
    Variant(
        name="gpu-lean",
        description="slimmed, without packages that a text model on one GPU does not use",
        tables={
            "image": _SLIM,
            "packages": {"replace": [f"{name}; python_version < '3'" for name in UNUSED]},
        },
    ),
    Variant(
        name="gpu-least",
        description="lean, without files that a text model on one GPU does not open",
        tables=_LEAST,
    ),
    Variant(
        name="gpu-warm",
        description="least, with a second image that has what the first start compiled",
        tables={**_LEAST, "image": {**_LEAST["image"], "warm": True}},
    ),
    Variant(
        name="gpu-other",
        description="slimmed for a GPU that the machine does not have",
        tables={
            "image": {"slim": False, "slim-packages": {"torch": True, "flashinfer-cubin": True}},
            "matrix": {"sm": ["12.0"]},
        },
    ),
    Variant(
        name="gpu-memory",
        description="a share of the GPU's memory that is too small",
        tables={"image": _SLIM, "server": {"environment": {"JBUILD_GPU_MEMORY_UTILIZATION": "0.005"}}},
    ),
)
# Needs golden tokens: its own have a wrong one.
WRONG_GOLDEN = Variant(name="gpu-golden", description="golden tokens that no right kernel computes", tables=_LEAST)
QUANTISED = (
    Variant(name="gpu-gptq", description="4-bit weights, which Marlin multiplies", tables={"image": _SLIM}),
    Variant(
        name="gpu-gptq-precompiled",
        description="4-bit weights, with Marlin compiled for the GPU at build time",
        tables={"image": {**_SLIM, "precompile": "needed"}},
    ),
)


def main() -> None:
    """Write the recipes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the project's folder")
    parser.add_argument("--only", action="append", metavar="VARIANT", help="a variant to write (default: all)")
    parser.add_argument("--quantised", type=Path, metavar="FOLDER", help="a GPTQ model, for a recipe of its own")
    parser.add_argument("--golden", type=Path, metavar="FILE", help="golden tokens of scripts/reference_tokens.py")
    options = parser.parse_args()
    documents = list(documents_of(options.golden, options.quantised))
    names = [variant.name for variant, _ in documents]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"--only: there is no variant {min(unknown)}: they are {', '.join(names)}")
    recipes = options.folder / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    for variant, document in documents:
        if options.only and variant.name not in options.only:
            continue
        write(recipes, document)
        if options.golden and variant not in QUANTISED:
            write_golden(options.golden, recipes, variant)
        print(variant.name)


def documents_of(golden_tokens: Path | None, quantised: Path | None) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Yield the variants and the documents of their recipes, in the order in which to build them."""
    shipped = tomllib.loads(SHIPPED.read_text())
    for variant in (*VARIANTS, *((WRONG_GOLDEN,) if golden_tokens else ())):
        yield variant, recipe_of(shipped, variant)
    if quantised:
        model = {"name": "smollm2-135m-instruct-gptq", "source": str(quantised.absolute()), "licence": "Apache-2.0"}
        for variant in QUANTISED:
            yield variant, {**recipe_of(shipped, variant), "models": [model]}


def write_golden(recorded: Path, recipes: Path, variant: Variant) -> None:
    """Write the golden tokens of a variant."""
    target = recipes / "golden" / f"{variant.name}.toml"
    target.parent.mkdir(exist_ok=True)
    if variant is WRONG_GOLDEN:
        write_wrong_golden(recorded, target)
    else:
        shutil.copyfile(recorded, target)


def recipe_of(shipped: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """Return the document of a variant's recipe, with its name, which is the file's."""
    document = {
        **shipped,
        "name": variant.name,
        "description": f"vLLM 0.20.2 on an H100 or H200: {variant.description}",
        "publish": {"repository": REPOSITORY},
        "smoke": {"questions": list(QUESTIONS)},
    }
    for table, keys in variant.tables.items():
        before = document.get(table, {})
        nested = {key: {**before[key], **value} for key, value in keys.items() if isinstance(before.get(key), dict)}
        document[table] = {**before, **keys, **nested}
    return document


def write(folder: Path, document: dict[str, Any]) -> None:
    """Write a recipe's file."""
    name = document["name"]
    body = {key: value for key, value in document.items() if key != "name"}
    (folder / f"{name}.toml").write_text(tomli_w.dumps(body))


if __name__ == "__main__":
    main()

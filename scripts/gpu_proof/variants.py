"""The recipes of the proof on a GPU: the shipped recipe for Hopper GPUs, and variants that differ in one table each.

scripts/gpu_proof/variants.py FOLDER [--quantised FOLDER] [--golden FILE] writes them into the recipes folder of a
jbuild project.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from gpu_proof.wrong_golden import write_wrong_golden

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
    Variant(
        name="gpu-whole",
        description="all GPU code of torch, vLLM and NVIDIA's libraries",
        # 295 MB of kernels for other GPUs, one a file, would only have to travel.
        tables={"image": {"slim": False, "slim-packages": {"flashinfer-cubin": True}}},
    ),
    Variant(name="gpu-slim", description="without the GPU code for other GPUs", tables={"image": _SLIM}),
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
    parser.add_argument("--quantised", type=Path, metavar="FOLDER", help="a GPTQ model, for a recipe of its own")
    parser.add_argument("--golden", type=Path, metavar="FILE", help="golden tokens of scripts/reference_tokens.py")
    options = parser.parse_args()
    shipped = tomllib.loads(SHIPPED.read_text())
    recipes = options.folder / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        write(recipes, recipe_of(shipped, variant))
        if options.golden:
            copy_golden(options.golden, recipes, variant)
    if options.golden:
        write(recipes, recipe_of(shipped, WRONG_GOLDEN))
        write_wrong_golden(options.golden, golden_file(recipes, WRONG_GOLDEN))
    for variant in QUANTISED if options.quantised else ():
        quantised = recipe_of(shipped, variant)
        source = str(options.quantised.absolute())
        quantised["models"] = [{"name": "smollm2-135m-instruct-gptq", "source": source, "licence": "Apache-2.0"}]
        write(recipes, quantised)


def copy_golden(golden: Path, recipes: Path, variant: Variant) -> None:
    """Write the golden tokens of a variant."""
    target = golden_file(recipes, variant)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(golden, target)


def golden_file(recipes: Path, variant: Variant) -> Path:
    """Return the file of a variant's golden tokens."""
    return recipes / "golden" / f"{variant.name}.toml"


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

"""Compares the KV cache size of `jbuild fit` with vLLM's functions: scripts/fit_agreement.py VLLM-WHEEL [CASES].

The script extracts the functions from the wheel's source and runs them without torch: they need only sizes of types.
"""

from __future__ import annotations

import ast
import collections
import copy
import random
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from builder.models.fit.kv_cache import sequence_bytes
from builder.models.fit.memory_estimate import Layers, ServingSettings, Shape

_SPECS, _UTILS = "vllm/v1/kv_cache_interface.py", "vllm/v1/core/kv_cache_utils.py"
_FUNCTIONS = (
    "create_kv_cache_group_specs",
    "get_uniform_page_size",
    "_get_kv_cache_groups_uniform_spec",
    "_get_kv_cache_groups_uniform_page_size",
    "_max_memory_usage_bytes_from_groups",
)
# Full layers, sliding layers, window, heads, head size, tokens, batched tokens, tokens per block.
Case = tuple[int, int, int, int, int, int, int, int]


class _Type:
    """A torch type with only its size in bytes."""

    def __init__(self, size: int) -> None:
        self.itemsize = size


class _Quiet:
    """A logger that discards all messages."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


def _divide_up(number: int, by: int) -> int:
    return -(-number // by)


def load(wheel: Path) -> dict[str, Any]:
    """Return vLLM's specs and functions by name."""
    with zipfile.ZipFile(wheel) as archive:
        specs, utils = (archive.read(name).decode() for name in (_SPECS, _UTILS))
    sys.modules["torch"] = types.SimpleNamespace(  # type: ignore[assignment]
        float32=_Type(4), bfloat16=_Type(2), uint8=_Type(1), dtype=_Type, Tensor=object
    )
    module = types.ModuleType("specs")
    sys.modules["specs"] = module
    space = module.__dict__
    space |= {"init_logger": lambda _: _Quiet(), "cdiv": _divide_up, "get_dtype_size": lambda kind: kind.itemsize}
    space |= {"round_up": lambda n, by: _divide_up(n, by) * by, "nvfp4_kv_cache_full_dim": lambda n: n // 2 + n // 16}
    exec(compile(re.sub(r"^from vllm.*$", "", specs, flags=re.MULTILINE), _SPECS, "exec"), space)  # noqa: S102
    space |= {"defaultdict": collections.defaultdict, "cast": lambda _, value: value, "copy": copy, "logger": _Quiet()}
    for node in ast.parse(utils).body:
        if isinstance(node, ast.FunctionDef) and node.name in _FUNCTIONS:
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
            exec(compile(ast.Module([node], []), _UTILS, "exec"), space)  # noqa: S102
    return space


def theirs(vllm: dict[str, Any], case: Case) -> int:
    """Return vLLM's size of one sequence, in bytes."""
    full, sliding, window, heads, size, tokens, batched, block = case
    common = {"block_size": block, "num_kv_heads": heads, "head_size": size, "dtype": sys.modules["torch"].bfloat16}
    layers = {f"full.{n}": vllm["FullAttentionSpec"](**common) for n in range(full)}
    layers |= {f"sliding.{n}": vllm["SlidingWindowSpec"](**common, sliding_window=window) for n in range(sliding)}
    kind = "_get_kv_cache_groups_uniform_page_size" if full and sliding else "_get_kv_cache_groups_uniform_spec"
    config = types.SimpleNamespace(
        model_config=types.SimpleNamespace(max_model_len=tokens),
        scheduler_config=types.SimpleNamespace(max_num_batched_tokens=batched),
        parallel_config=types.SimpleNamespace(decode_context_parallel_size=1, prefill_context_parallel_size=1),
    )
    return int(vllm["_max_memory_usage_bytes_from_groups"](config, vllm[kind](layers)))


def ours(case: Case) -> int:
    """Return the size of one sequence in `jbuild fit`, in bytes."""
    full, sliding, window, heads, size, tokens, batched, block = case
    kinds = [(full, None), (sliding, window)]
    layers = tuple(Layers(count=count, width=2 * heads * size, what="", window=span) for count, span in kinds if count)
    shape = Shape(model_type="", layers=layers, hidden=1, intermediate=1, vocabulary=1, longest=None, dtype="bfloat16")
    settings = ServingSettings(
        dtype="bfloat16",
        kv_dtype="bfloat16",
        length=tokens,
        sequences=1,
        batched_tokens=batched,
        most_sequences=1,
        block=block,
        utilization=0.9,
        hybrid=True,
        eager=False,
    )
    return sequence_bytes(shape, settings, tokens)


def cases(count: int) -> list[Case]:
    """Return random sets of layers, the same in every run."""
    chance = random.Random(1)  # noqa: S311  # test cases, not secrets
    result: list[Case] = []
    while len(result) < count:
        full, sliding = chance.randint(0, 60), chance.randint(0, 60)
        if full or sliding:
            heads, size = chance.randint(1, 32), chance.choice((64, 96, 128, 256))
            lengths = (chance.randint(1, 200_000), chance.randint(1, 16_384), chance.choice((16, 32, 128)))
            result.append((full, sliding, chance.randint(2, 9000), heads, size, *lengths))
    return result


def main() -> int:
    """Compare, and print the number of equal results."""
    if len(sys.argv) < 2:  # noqa: PLR2004
        print(__doc__)
        return 2
    vllm = load(Path(sys.argv[1]))
    all_cases = cases(int(sys.argv[2]) if len(sys.argv) > 2 else 2000)  # noqa: PLR2004
    differing = [case for case in all_cases if theirs(vllm, case) != ours(case)]
    for case in differing[:10]:
        print(f"{case}: vLLM {theirs(vllm, case)}, jbuild {ours(case)}")
    print(f"{len(all_cases) - len(differing)} of {len(all_cases)} agree to the byte")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

"""Computes a table of operations with torch's and vLLM's kernels on an NVIDIA GPU, and compares two runs bit by bit.

It needs torch and a GPU, and nothing of jbuild, so that it runs where only the libraries are. `compute` and `attention`
write a JSON file; `compare` reads two of them, of original and slimmed or precompiled libraries. Inputs come from a
seed. scripts/gpu-kernels runs all of it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import attention, functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Operation = tuple[str, Callable[[], Any]]

_SEED = 20
_ROWS, _COLUMNS = 512, 1024


def main() -> int:
    """Run a command; the exit code is 1 if results differ or an operation fails."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_kernels.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compute = commands.add_parser("compute", help="run the table of operations")
    compute.add_argument("--vllm", type=Path, help="folder of the vllm package; without it, torch's operations only")
    flash = commands.add_parser("attention", help="run FlashAttention-2's forward kernels, and time the first call")
    flash.add_argument("library", type=Path, help="_vllm_fa2_C.abi3.so")
    for command in (compute, flash):
        command.add_argument("--output", type=Path, required=True, help="JSON file to write")
    compare = commands.add_parser("compare", help="compare two results")
    compare.add_argument("files", type=Path, nargs=2)
    options = parser.parse_args()
    if options.command == "compare":
        return _compare(*options.files)
    result = _attention(options.library) if options.command == "attention" else _compute(options.vllm)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    failed = {name: text for name, text in result["results"].items() if text.startswith("failed")}
    for name, text in failed.items():
        print(f"{name}: {text}", file=sys.stderr)
    print(f"{len(result['results']) - len(failed)} operations computed, {len(failed)} failed; {options.output}")
    return int(bool(failed))


def _compare(first: Path, second: Path) -> int:
    one, two = (json.loads(path.read_text())["results"] for path in (first, second))
    different = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    for name in different:
        print(f"{name}: {one.get(name)} and {two.get(name)}")
    print(f"{len(one.keys() & two.keys())} operations compared, {len(different)} differ")
    return int(bool(different) or not one)


def _compute(vllm: Path | None) -> dict[str, Any]:
    operations = [*_torch_operations(), *(_vllm_operations(vllm) if vllm else ())]
    return {"environment": _environment(), "results": {name: _digest(run) for name, run in operations}}


def _environment() -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "library": torch.__file__}


def _digest(operation: Callable[[], Any]) -> str:
    """Return the hash of an operation's results, or the reason why it failed."""
    torch.manual_seed(_SEED)
    try:
        results = operation()
        torch.cuda.synchronize()
    except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
        return f"failed: {str(error).splitlines()[0]}"
    digest = hashlib.sha256()
    for tensor in results if isinstance(results, tuple | list) else (results,):
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _ops(library: str) -> Any:
    """Return the operations that a library has registered with torch."""
    return getattr(torch.ops, library)


def _random(*shape: int, dtype: Any, scale: float = 1.0) -> Any:
    return (torch.randn(*shape, device="cuda", dtype=torch.float32) * scale).to(dtype)


def _torch_operations() -> Iterator[Operation]:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for operation, unary in _unary().items():
            yield f"torch.{operation} {name}", partial(_on_random, unary, 1, dtype)
        for operation, binary in _binary().items():
            yield (
                f"torch.{operation} {name}",
                partial(_on_random, binary, 2, dtype),
            )
    for head in (64, 128):
        for dtype in (torch.float16, torch.bfloat16):
            yield f"torch.attention {head} {dtype}", partial(_sdpa, head, dtype)


def _on_random(run: Callable[..., Any], count: int, dtype: Any) -> Any:
    return run(*(_random(_ROWS, _COLUMNS, dtype=dtype) for _ in range(count)))


def _unary() -> dict[str, Callable[[Any], Any]]:
    return {
        "exp": torch.exp,
        "gelu": functional.gelu,
        "silu": functional.silu,
        "sum": lambda x: x.sum(dim=-1),
        "mean": lambda x: x.mean(dim=0),
        "argmax": lambda x: x.argmax(dim=-1),
        "softmax": lambda x: torch.softmax(x, dim=-1),
        "log_softmax": lambda x: torch.log_softmax(x, dim=-1),
        "layer_norm": lambda x: functional.layer_norm(x, (_COLUMNS,)),
        "rms_norm": lambda x: functional.rms_norm(x, (_COLUMNS,)),
        "group_norm": lambda x: functional.group_norm(x.view(8, 64, _COLUMNS), 8),
        "sort": lambda x: torch.sort(x, dim=-1, stable=True),
        "topk": lambda x: torch.topk(x, 50, dim=-1),
        "cumsum": lambda x: torch.cumsum(x.float(), dim=-1),
        "transpose": lambda x: x.t().contiguous(),
        "cat": lambda x: torch.cat((x, x.flip(0)), dim=1),
        "gather": lambda x: torch.gather(x, 1, torch.argsort(x, dim=1, stable=True)),
        "embedding": lambda x: functional.embedding(torch.arange(0, _ROWS, 3, device="cuda"), x),
        "where": lambda x: torch.where(x > 0, x, -x),
        "dropout": lambda x: functional.dropout(x, 0.3),
        "multinomial": lambda x: torch.multinomial(torch.softmax(x.float(), dim=-1), 4),
        "interpolate": lambda x: functional.interpolate(x.view(1, 2, 256, _COLUMNS), scale_factor=2, mode="nearest"),
        "to float8": lambda x: x.to(torch.float8_e4m3fn),
        "sampling": lambda x: torch.empty_like(x, dtype=torch.float32).exponential_(),
    }


def _binary() -> dict[str, Callable[[Any, Any], Any]]:
    return {
        "add": torch.add,
        "mul": torch.mul,
        "pow": lambda x, y: torch.pow(x.abs() + 0.5, y),
        "matmul": lambda x, y: x @ y.t(),
        "lerp": lambda x, y: torch.lerp(x, y, 0.25),
        "compare": torch.lt,
        "index_select": lambda x, y: torch.index_select(x, 0, y[:, 0].abs().float().argsort(stable=True)),
    }


def _sdpa(head: int, dtype: Any) -> Any:
    query, key, value = (_random(2, 8, 256, head, dtype=dtype) for _ in range(3))
    with attention.sdpa_kernel(attention.SDPBackend.FLASH_ATTENTION):
        flash = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    with attention.sdpa_kernel(attention.SDPBackend.EFFICIENT_ATTENTION):
        return flash, functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def _vllm_operations(folder: Path) -> Iterator[Operation]:
    for library in sorted([*folder.glob("_C*.abi3.so"), *folder.glob("_moe_C*.abi3.so")]):
        torch.ops.load_library(library)
    scalar_types = _module(folder / "scalar_type.py").scalar_types
    for dtype in (torch.float16, torch.bfloat16):
        for name, run in (*_norms(), *_caches(), *_quantisations()):
            yield f"vllm.{name} {str(dtype).removeprefix('torch.')}", partial(run, dtype)
        yield f"vllm.marlin {dtype}", partial(_marlin, dtype, scalar_types.uint4b8.id)
    yield "vllm.awq", _awq
    yield "vllm.moe", _moe


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _norms() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    ops = _ops("_C")

    def into(name: str, dtype: Any, *, columns: int) -> Any:
        out = torch.empty(_ROWS, columns, device="cuda", dtype=dtype)
        getattr(ops, name)(out, _random(_ROWS, _COLUMNS, dtype=dtype))
        return out

    def rms(dtype: Any) -> Any:
        out, x, weight = (_random(_ROWS, _COLUMNS, dtype=dtype) for _ in range(3))
        ops.rms_norm(out, x, weight[0].contiguous(), 1e-5)
        ops.fused_add_rms_norm(x, weight, out[0].contiguous(), 1e-5)
        return out, x, weight

    def rotary(dtype: Any) -> Any:
        query, key, cache = (_random(64, _COLUMNS, dtype=dtype) for _ in range(3))
        ops.rotary_embedding(torch.arange(64, device="cuda"), query, key, 64, cache[:, :64].contiguous(), True)
        return query, key

    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
        yield name, partial(into, name, columns=_COLUMNS // 2)
    for name in ("gelu_new", "gelu_fast", "gelu_quick"):
        yield name, partial(into, name, columns=_COLUMNS)
    yield "rms_norm", rms
    yield "rotary_embedding", rotary


def _caches() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    def cache(dtype: Any, kind: str) -> Any:
        key, value = (_random(128, 8, 64, dtype=dtype) for _ in range(2))
        stored = torch.zeros(2, 16, 16, 8, 64, device="cuda", dtype=dtype if kind == "auto" else torch.uint8)
        one = torch.ones(1, device="cuda")
        slots = torch.randperm(256, device="cuda")[:128]
        _ops("_C_cache_ops").reshape_and_cache_flash(key, value, stored[0], stored[1], slots, kind, one, one)
        return stored

    for kind in ("auto", "fp8"):
        yield f"reshape_and_cache_flash {kind}", partial(cache, kind=kind)


def _quantisations() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    ops = _ops("_C")

    def quantised(dtype: Any, to: Any, name: str) -> Any:
        out = torch.empty(_ROWS, _COLUMNS, device="cuda", dtype=to)
        rows = _ROWS if "int8" in name else 1
        scale = torch.zeros(rows, 1, device="cuda")
        extra = (None,) if "int8" in name else ()
        getattr(ops, name)(out, _random(_ROWS, _COLUMNS, dtype=dtype), scale, *extra)
        return out, scale

    def scaled_mm(dtype: Any, to: Any) -> Any:
        a, b = (_random(256, 256, dtype=torch.float32, scale=3).to(to) for _ in range(2))
        out, scale = torch.empty(256, 256, device="cuda", dtype=dtype), torch.ones(1, 1, device="cuda") * 0.01
        ops.cutlass_scaled_mm(out, a, b.t(), scale, scale, None)
        return out

    yield "dynamic_scaled_fp8_quant", lambda d: quantised(d, torch.float8_e4m3fn, "dynamic_scaled_fp8_quant")
    yield "dynamic_scaled_int8_quant", lambda d: quantised(d, torch.int8, "dynamic_scaled_int8_quant")
    yield "cutlass_scaled_mm fp8", lambda d: scaled_mm(d, torch.float8_e4m3fn)
    yield "cutlass_scaled_mm int8", lambda d: scaled_mm(d, torch.int8)


def _marlin(dtype: Any, type_id: int) -> Any:
    size_m, size_n, size_k, group = 16, 512, 1024, 128
    packed = torch.randint(-(2**31), 2**31 - 1, (size_k // 8, size_n), device="cuda", dtype=torch.int32)
    empty = torch.empty(0, device="cuda", dtype=torch.int32)
    weight = _ops("_C").gptq_marlin_repack(packed, empty, size_k, size_n, 4, False)
    scales = _random(size_k // group, size_n, dtype=dtype, scale=0.01)
    workspace = torch.zeros(1024, device="cuda", dtype=torch.int32)
    a = _random(size_m, size_k, dtype=dtype)
    flags = (True, False, True, False)
    result = _ops("_C").marlin_gemm(
        *(a, None, weight, None, scales, None, None, None, None, None, workspace, type_id, size_m, size_n, size_k),
        *flags,
    )
    return weight, result


def _awq() -> Any:
    weight = torch.randint(-(2**31), 2**31 - 1, (1024, 64), device="cuda", dtype=torch.int32)
    zeros = torch.randint(-(2**31), 2**31 - 1, (8, 64), device="cuda", dtype=torch.int32)
    scales = _random(8, 512, dtype=torch.float16, scale=0.01)
    product = _ops("_C").awq_gemm(_random(16, 1024, dtype=torch.float16), weight, scales, zeros, 8)
    return _ops("_C").awq_dequantize(weight, scales, zeros, 0, 0, 0), product


def _moe() -> Any:
    logits = _random(128, 64, dtype=torch.float32)
    weights = torch.empty(128, 8, device="cuda")
    indices, sources = (torch.empty(128, 8, device="cuda", dtype=torch.int32) for _ in range(2))
    _ops("_moe_C").topk_softmax(weights, indices, sources, logits, True, None)
    experts = _random(128, 8, 256, dtype=torch.bfloat16)
    total = torch.empty(128, 256, device="cuda", dtype=torch.bfloat16)
    _ops("_moe_C").moe_sum(experts, total)
    return weights, indices, total


def _attention(library: Path) -> dict[str, Any]:
    """Run FlashAttention-2 forward for two head sizes and types, on whole sequences and on a paged cache.

    Seconds to the end of the first call of each case are those of loading its kernels, and of compiling them where the
    library has PTX only.
    """
    torch.zeros(1, device="cuda")
    torch.ops.load_library(library)
    seconds: dict[str, float] = {}
    results: dict[str, str] = {}
    for dtype in (torch.float16, torch.bfloat16):
        for head in (64, 128):
            for case, paged in (("prefill", False), ("paged decode", True)):
                name = f"fa2 {case} {head} {str(dtype).removeprefix('torch.')}"
                started = time.monotonic()
                results[name] = _digest(partial(_fa2, head, dtype, paged=paged))
                seconds[name] = round(time.monotonic() - started, 3)
    jit = os.environ.get("CUDA_DISABLE_PTX_JIT") != "1"
    return {"environment": _environment() | {"jit": str(jit)}, "first_call_s": seconds, "results": results}


def _fa2(head: int, dtype: Any, *, paged: bool) -> Any:
    batch, heads, length, page = 2, 8, 512, 64
    tokens = batch if paged else batch * length
    query = _random(tokens, heads, head, dtype=dtype)
    if paged:
        key, value = (_random(batch * length // page, page, heads, head, dtype=dtype) for _ in range(2))
        table = torch.arange(batch * length // page, device="cuda", dtype=torch.int32).view(batch, -1)
    else:
        key, value = (_random(batch * length, heads, head, dtype=dtype) for _ in range(2))
        table = None
    starts = torch.arange(batch + 1, device="cuda", dtype=torch.int32)
    used = torch.full((batch,), length, device="cuda", dtype=torch.int32) if paged else None
    longest = 1 if paged else length
    query_starts = starts if paged else starts * length
    output = _ops("_vllm_fa2_C").varlen_fwd(
        *(query, key, value, None, query_starts, starts * length, used, None, table, None, longest, length),
        *(0.0, head**-0.5, False, True, -1, -1, 0.0, False, 0, None),
    )[0]
    if not paged:
        _close_to_torch(query, key, value, output, batch)
    return output


def _close_to_torch(query: Any, key: Any, value: Any, output: Any, batch: int) -> None:
    """Compare with torch's own attention in float32."""
    wide = (x.view(batch, -1, *x.shape[1:]).transpose(1, 2).float() for x in (query, key, value))
    with attention.sdpa_kernel(attention.SDPBackend.MATH):
        expected = functional.scaled_dot_product_attention(*wide, is_causal=True).transpose(1, 2)
    difference = (expected.reshape(output.shape) - output.float()).abs().max().item()
    if not difference < 0.02:  # noqa: PLR2004
        raise RuntimeError(f"differs from torch's attention by {difference}")


if __name__ == "__main__":
    sys.exit(main())

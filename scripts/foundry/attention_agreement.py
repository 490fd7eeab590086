"""Compares a flash-attn wheel of `jbuild wheel` with torch's attention on the GPU of this machine.

Run it with a Python that has torch, the wheel and its requirements: it needs nothing of jbuild. The results, a JSON
file, become `docs/attention-agreement.md` with `attention_report.py`. As in flash-attn's own tests, the reference is
attention in float32, and the error may be at most twice that of the same computation in the 16-bit type.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from flash_attn import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How much of an error both computations may have by rounding alone.
_NOISE = 1e-5
_PAGE = 256


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call: its function, and the shapes and options of the attention.

    `query` and `key` are numbers of tokens, `window` the tokens on the left that a token sees.
    """

    function: str
    batch: int
    query: int
    key: int
    heads: int
    key_heads: int
    size: int
    causal: bool = False
    window: int | None = None
    softcap: float = 0.0
    slopes: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """The largest errors of a case against float32."""

    case: Case
    flash: float
    torch: float
    passed: bool


def cases(sizes: list[int]) -> Iterator[Case]:
    """Yield the table."""
    for size in sizes:
        for causal in (False, True):
            for query, key in ((1, 1), (113, 203), (128, 128), (512, 256), (1024, 1024), (1023, 2048)):
                yield Case(
                    function="plain", batch=2, query=query, key=key, heads=6, key_heads=6, size=size, causal=causal
                )
            yield Case(function="plain", batch=2, query=999, key=999, heads=8, key_heads=2, size=size, causal=causal)
            yield Case(function="varlen", batch=5, query=777, key=777, heads=8, key_heads=2, size=size, causal=causal)
            yield Case(function="cache", batch=3, query=1, key=4097, heads=8, key_heads=2, size=size, causal=causal)
            yield Case(function="cache", batch=3, query=7, key=1500, heads=8, key_heads=1, size=size, causal=causal)
            yield Case(function="paged", batch=3, query=1, key=4097, heads=8, key_heads=2, size=size, causal=causal)
            yield Case(function="paged", batch=3, query=33, key=700, heads=8, key_heads=2, size=size, causal=causal)
        yield Case(function="plain", batch=2, query=1000, key=1000, heads=6, key_heads=6, size=size, window=128)
        yield Case(
            function="plain", batch=2, query=640, key=640, heads=6, key_heads=6, size=size, causal=True, softcap=30.0
        )
        yield Case(
            function="plain", batch=2, query=640, key=640, heads=6, key_heads=6, size=size, causal=True, slopes=True
        )


def reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, case: Case, slopes: torch.Tensor | None
) -> torch.Tensor:
    """Return attention as torch computes it step by step, in the type of its inputs: batch, tokens, heads, size."""
    repeats = case.heads // case.key_heads
    key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    scores = torch.einsum("bthd,bshd->bhts", query / math.sqrt(case.size), key)
    if case.softcap:
        scores = torch.tanh(scores / case.softcap) * case.softcap
    rows = torch.arange(query.shape[1], device=query.device)[:, None] + key.shape[1] - query.shape[1]
    columns = torch.arange(key.shape[1], device=query.device)[None, :]
    if slopes is not None:
        scores = scores - slopes[:, :, None, None].to(scores.dtype) * (rows - columns).abs()
    hidden = torch.zeros_like(rows - columns, dtype=torch.bool)
    if case.causal:
        hidden |= columns > rows
    if case.window is not None:
        hidden |= (columns < rows - case.window) | (columns > rows + case.window)
    weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1)
    # A token that sees nothing gives zeros.
    weights = torch.nan_to_num(weights)
    return torch.einsum("bhts,bshd->bthd", weights, value)


def run(case: Case, kind: torch.dtype) -> Row:
    """Compute a case in three ways."""
    torch.manual_seed(0)

    def random(tokens: int, heads: int) -> torch.Tensor:
        return torch.randn(case.batch, tokens, heads, case.size, device="cuda", dtype=kind)

    query, key, value = (
        random(case.query, case.heads),
        random(case.key, case.key_heads),
        random(case.key, case.key_heads),
    )
    slopes = torch.rand(case.batch, case.heads, device="cuda") * 0.3 if case.slopes else None
    exact = reference(query.float(), key.float(), value.float(), case, slopes)
    plain = reference(query, key, value, case, slopes)
    got = _FUNCTIONS[case.function](query, key, value, case, slopes)
    flash, other = (float((found.float() - exact).abs().max()) for found in (got, plain))
    return Row(
        case=case, flash=flash, torch=other, passed=bool(torch.isfinite(got).all()) and flash <= 2 * other + _NOISE
    )


def _plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, case: Case, slopes: torch.Tensor | None
) -> torch.Tensor:
    window = (-1, -1) if case.window is None else (case.window, case.window)
    found: torch.Tensor = flash_attn_func(
        query, key, value, causal=case.causal, window_size=window, softcap=case.softcap, alibi_slopes=slopes
    )
    return found


def _varlen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, case: Case, _: object) -> torch.Tensor:
    ends = torch.arange(case.batch + 1, device="cuda", dtype=torch.int32)
    flat = flash_attn_varlen_func(
        *(tensor.flatten(0, 1) for tensor in (query, key, value)),
        ends * case.query,
        ends * case.key,
        case.query,
        case.key,
        causal=case.causal,
    )
    found: torch.Tensor = flat.view(query.shape)
    return found


def _cache(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, case: Case, _: object) -> torch.Tensor:
    """A cache that is longer than what is in it."""
    room = torch.zeros_like(key[:, :100])
    lengths = torch.full((case.batch,), case.key, device="cuda", dtype=torch.int32)
    found: torch.Tensor = flash_attn_with_kvcache(
        query, torch.cat([key, room], 1), torch.cat([value, room], 1), cache_seqlens=lengths, causal=case.causal
    )
    return found


def _paged(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, case: Case, _: object) -> torch.Tensor:
    """A cache in pages that are in no order."""
    pages = -(-case.key // _PAGE)
    table = torch.randperm(case.batch * pages, device="cuda", dtype=torch.int32).view(case.batch, pages)

    def paged(tensor: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, pages * _PAGE - case.key))
        blocks = torch.empty(case.batch * pages, _PAGE, case.key_heads, case.size, device="cuda", dtype=tensor.dtype)
        blocks[table.flatten().long()] = padded.view(-1, _PAGE, case.key_heads, case.size)
        return blocks

    lengths = torch.full((case.batch,), case.key, device="cuda", dtype=torch.int32)
    found: torch.Tensor = flash_attn_with_kvcache(
        query, paged(key), paged(value), cache_seqlens=lengths, block_table=table, causal=case.causal
    )
    return found


_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "plain": _plain,
    "varlen": _varlen,
    "cache": _cache,
    "paged": _paged,
}


def refusals(sizes: list[int], kind: torch.dtype) -> list[dict[str, str]]:
    """Return what calls answer that the wheel has no kernels for: each has to raise a RuntimeError."""
    absent = next(size for size in (32, 96, 256) if size not in sizes)
    other = torch.float16 if kind is torch.bfloat16 else torch.bfloat16

    def call(size: int, dtype: torch.dtype, *, backward: bool = False) -> str:
        tensors = [torch.randn(1, 16, 2, size, device="cuda", dtype=dtype, requires_grad=backward) for _ in range(3)]
        try:
            found = flash_attn_func(*tensors)
            if backward:
                found.sum().backward()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return ""

    return [
        {"call": f"head size {absent}", "answer": call(absent, kind)},
        {"call": str(other).removeprefix("torch."), "answer": call(sizes[0], other)},
        {"call": "backward", "answer": call(sizes[0], kind, backward=True)},
    ]


def milliseconds(size: int, kind: torch.dtype) -> dict[str, float]:
    """Return the times of one large call, of flash-attn and of torch's scaled_dot_product_attention."""
    query, key, value = (torch.randn(4, 8192, 16, size, device="cuda", dtype=kind) for _ in range(3))
    turned = [tensor.transpose(1, 2).contiguous() for tensor in (query, key, value)]

    def timed(call: Callable[[], object]) -> float:
        for _ in range(3):
            call()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 10

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        other = timed(lambda: torch.nn.functional.scaled_dot_product_attention(*turned, is_causal=True))
    return {"flash": timed(lambda: flash_attn_func(query, key, value, causal=True)), "torch": other}


def main() -> int:
    """Run all cases; the exit code is 1 if a result differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="64,128", help="head sizes that the wheel has, with commas")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--output", type=Path, required=True, help="the file of the results")
    options = parser.parse_args()
    kind: torch.dtype = getattr(torch, options.dtype)
    sizes = [int(size) for size in options.sizes.split(",")]
    rows = [run(case, kind) for case in cases(sizes)]
    answers = refusals(sizes, kind)
    passed = all(row.passed for row in rows) and all(answer["answer"] for answer in answers)
    major, minor = torch.cuda.get_device_capability()
    results = {
        "gpu": torch.cuda.get_device_name(),
        "sm": f"{major}.{minor}",
        "torch": torch.__version__,
        "wheel": version("flash-attn"),
        "dtype": options.dtype,
        "passed": passed,
        "rows": [asdict(row) for row in rows],
        "refusals": answers,
        "milliseconds": {str(size): milliseconds(size, kind) for size in sizes},
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    wrong = [row.case for row in rows if not row.passed]
    print(f"{len(rows) - len(wrong)} of {len(rows)} cases agree; refusals: {answers}; {results['milliseconds']}")
    for case in wrong:
        print(f"differs: {case}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Writes `docs/attention-agreement.md` out of the results of `attention_agreement.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE = Path(__file__).parents[2] / "docs" / "attention-agreement.md"
_HEAD = """\
# Attention of a built wheel

flash-attn, built by `jbuild wheel` for {architecture} and SM {sm}, computes what torch computes: **{agreeing} of {rows}
cases agree** on one {gpu}.

- wheel `{wheel}`, torch {torch}, inputs in {dtype}
- The reference is attention in float32, step by step. *error* is the largest difference from it in any element of the
  result; *torch's* is that of the same computation in {dtype}. As in flash-attn's own tests, a case agrees if its error
  is at most twice torch's.
- *varlen* packs sequences without padding, *cache* reads a longer KV cache, *paged* one in pages of 256 tokens in random
  order.

| call | head size | batch | queries | keys | heads | options | error | torch's |
|---|--:|--:|--:|--:|---|---|--:|--:|
"""
_FOOT = """
Calls that the build has no kernels for:

| call | answer |
|---|---|
{refusals}

Time of one causal call (batch 4, 8192 tokens, 16 heads), in ms:

| head size | this wheel | torch's flash attention |
|--:|--:|--:|
{times}

`scripts/foundry/attention_agreement.py` runs the cases with a Python that has torch and the wheel;
`scripts/foundry/attention_report.py` writes this page.
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="the JSON file of attention_agreement.py")
    parser.add_argument("--architecture", default="x86-64", help="that of the machine (default: x86-64)")
    options = parser.parse_args()
    results = json.loads(options.results.read_text(encoding="utf-8"))
    _PAGE.write_text(page(results, options.architecture), encoding="utf-8")


def page(results: dict[str, Any], architecture: str) -> str:
    """Return the page."""
    rows = results["rows"]
    head = _HEAD.format(
        **{name: results[name] for name in ("sm", "gpu", "wheel", "torch", "dtype")},
        architecture=architecture,
        agreeing=sum(row["passed"] for row in rows),
        rows=len(rows),
    )
    refusals = "\n".join(f"| {row['call']} | {row['answer'] or 'none: DIFFERS'} |" for row in results["refusals"])
    times = "\n".join(
        f"| {size} | {ms['flash']:.2f} | {ms['torch']:.2f} |" for size, ms in results["milliseconds"].items()
    )
    return head + "\n".join(map(_row, rows)) + "\n" + _FOOT.format(refusals=refusals, times=times)


def _row(row: dict[str, Any]) -> str:
    case = row["case"]
    heads = str(case["heads"]) if case["heads"] == case["key_heads"] else f"{case['heads']} on {case['key_heads']}"
    cells = (
        case["function"],
        case["size"],
        case["batch"],
        case["query"],
        case["key"],
        heads,
        ", ".join(_options(case)),
    )
    failed = "" if row["passed"] else " DIFFERS"
    return f"| {' | '.join(map(str, cells))} | {row['flash']:.2e}{failed} | {row['torch']:.2e} |"


def _options(case: dict[str, Any]) -> Iterator[str]:
    if case["causal"]:
        yield "causal"
    if case["window"] is not None:
        yield f"window {case['window']}"
    if case["softcap"]:
        yield f"softcap {case['softcap']:g}"
    if case["slopes"]:
        yield "ALiBi"


if __name__ == "__main__":
    main()

"""Writes the results into `docs/audit-agreement.md`: each command writes one section."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agreement.compare import Comparison

PAGE = Path(__file__).parents[2] / "docs" / "audit-agreement.md"
_SECTIONS = ("loader", "readers", "kernels", "fuzzing")
_FRAME = """\
# The audit against the loader

`scripts/audit-agreement`, `scripts/audit-oracles` and `scripts/audit-fuzz` are run by hand. Each command writes its
latest results into its own section.
"""
_LONGEST = 160


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Replace a section of the page."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    sections = {key: _section(key, old) for key in _SECTIONS} | {name: text.strip()}
    blocks = [f"<!-- {key} -->\n{body}\n<!-- /{key} -->\n" for key, body in sections.items() if body]
    write_text(page, "\n".join([_FRAME, *blocks]))


def _section(name: str, page: str) -> str:
    match = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)
    return match.group(1) if match else ""


def when_and_where() -> str:
    """Return the date, the number of CPUs and the memory, for the head of a section."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    date = datetime.now(tz=timezone.utc).date()
    return f"{date}, {os.cpu_count()} processors ({platform.machine()}), {memory:.0f} GB of memory"


def agreement(comparisons: Sequence[Comparison]) -> str:
    """Return the section about the loader: one row per stack, then every disagreement."""
    files, agreed = sum(c.files for c in comparisons), sum(c.agreed for c in comparisons)
    fails, same = sum(c.fails for c in comparisons), sum(c.same_cause for c in comparisons)
    head = (
        f"`scripts/audit-agreement`, {when_and_where()}: {len(comparisons)} stacks, {files} shared objects, "
        f"the same verdict on {agreed} ({_percent(agreed, files)}). The loader refuses {fails}; for {same} of them, "
        "both name the same cause."
    )
    lines = [
        "## Loader",
        "",
        head,
        "",
        *_METHOD,
        "",
        "| stack | objects | refused | injected | same verdict | same cause | error findings | purpose |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_row(comparison) for comparison in comparisons]
    lines += [
        "",
        "Disagreements, files that load despite an error finding, and files that fail to load without a finding:",
        "",
    ]
    lines += [text for c in comparisons for text in _differences(c)] or ["- none"]
    ended = [f"- {c.stack}: `{file}`" for c in comparisons for file in c.ended]
    if ended:
        lines += [
            "",
            "The loader accepts these files, but their own initialiser ends the process, which no symbol shows:",
            "",
        ]
        lines += ended
    return "\n".join(lines)


def _row(c: Comparison) -> str:
    counts = (c.files, c.fails, len(c.injected), c.agreed, c.same_cause, c.errors)
    return f"| {' | '.join((c.stack, *map(str, counts), c.special))} |"


def _differences(c: Comparison) -> Iterator[str]:
    for difference in c.disagreements:
        loader, audit = _short(difference.loader or "loads"), _short(difference.audit)
        yield f"- {c.stack}: `{difference.file}`: loader: {loader}; audit: {audit}"
    yield from (f"- {c.stack}: `{file}`: loads despite an error finding" for file in c.false_errors)
    yield from (f"- {c.stack}: `{file}`: does not load, without a finding" for file in c.unreported)
    reason = "only one of the two reports that it needs libraries of the NVIDIA runtime"
    yield from (f"- {c.stack}: `{file}`: {reason}" for file in c.differently_injected)
    yield from (f"- {c.stack}: the stack no longer serves its purpose: {row}" for row in c.broken_rows)


_METHOD = (
    "The command opens every shared object of every wheel with `dlopen(RTLD_NOW)` in the stack's arm64 image, each in",
    "its own process: alone, then after `import torch` if the stack has torch, and, if both fail, after importing its",
    "package. One success is enough. `injected` counts files that need libraries of the NVIDIA runtime and load with a",
    "stand-in for libcuda.so.1 that defines every requested symbol. `scripts/agreement/stacks.toml` lists the stacks.",
)


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.2f} %" if total else "none"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

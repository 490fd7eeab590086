"""The page of results, `docs/audit-agreement.md`: each command writes the section that is its own."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from builder.workspace import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agreement.compare import Comparison

PAGE = Path(__file__).parents[2] / "docs" / "audit-agreement.md"
_SECTIONS = ("loader", "readers", "fuzzing")
_FRAME = """\
# The audit against the loader

What `scripts/audit-agreement`, `scripts/audit-oracles` and `scripts/audit-fuzz` found when they were last run by hand.
Each writes a section of its own below.
"""
_SHOWN = 160


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Put a section into the page, in place of what it said before."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    kept = {key: _section(key, old) for key in _SECTIONS} | {name: text.strip()}
    parts = [f"<!-- {key} -->\n{body}\n<!-- /{key} -->\n" for key, body in kept.items() if body]
    write_text(page, "\n".join([_FRAME, *parts]))


def _section(name: str, page: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)
    return found.group(1) if found else ""


def when_and_where() -> str:
    """Return date, processors and memory, as results are signed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    date = datetime.now(tz=timezone.utc).date()
    return f"{date}, {os.cpu_count()} processors ({platform.machine()}), {memory:.0f} GB of memory"


def agreement(comparisons: Sequence[Comparison]) -> str:
    """Return the section on the loader: a row a stack, then every disagreement."""
    files, agreed = sum(c.files for c in comparisons), sum(c.agreed for c in comparisons)
    fails, same = sum(c.fails for c in comparisons), sum(c.same_cause for c in comparisons)
    head = (
        f"`scripts/audit-agreement`, {when_and_where()}: {len(comparisons)} stacks, {files} shared objects, "
        f"the same verdict on {agreed} ({_percent(agreed, files)}). The loader refuses {fails}; of {same} of them "
        "both name the same cause."
    )
    lines = [
        "## Loader",
        "",
        head,
        "",
        *_METHOD,
        "",
        "| stack | objects | refused | injected | same verdict | same cause | error findings | what is special |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_row(comparison) for comparison in comparisons]
    lines += [
        "",
        "Disagreements, files that load in spite of an error finding, and files that do not and that none names:",
        "",
    ]
    lines += [line for c in comparisons for line in _differences(c)] or ["- none"]
    ended = [f"- {c.stack}: `{file}`" for c in comparisons for file in c.ended]
    if ended:
        lines += [
            "",
            "Taken by the loader, but then the process is ended by the file's own initialiser: no symbol tells.",
            "",
        ]
        lines += ended
    return "\n".join(lines)


def _row(c: Comparison) -> str:
    counts = (c.files, c.fails, len(c.injected), c.agreed, c.same_cause, c.errors)
    return f"| {' | '.join((c.stack, *map(str, counts), c.special))} |"


def _differences(found: Comparison) -> Iterator[str]:
    for each in found.disagreements:
        loader, audit = _short(each.loader or "loads"), _short(each.audit)
        yield f"- {found.stack}: `{each.file}`: loader: {loader}; audit: {audit}"
    yield from (f"- {found.stack}: `{file}`: loads, but an error finding names it" for file in found.false_errors)
    yield from (f"- {found.stack}: `{file}`: does not load, and no finding tells" for file in found.unsaid)
    told = "one of the two says that it needs what the NVIDIA runtime gives"
    yield from (f"- {found.stack}: `{file}`: {told}" for file in found.other_injected)
    yield from (f"- {found.stack}: the stack does not show what it is for: {row}" for row in found.broken_rows)


_METHOD = (
    "Every shared object of every wheel is opened with `dlopen(RTLD_NOW)` in the stack's arm64 image, each in a",
    "process of its own: plainly, after `import torch` where the stack has it, and, where both failed, after importing",
    "the package that it belongs to. A file loads if it loads in one of these ways. `injected` counts files that need",
    "what the NVIDIA runtime gives and load once a stand-in of libcuda.so.1 is there, a library that defines every",
    "symbol asked of it. The stacks are in `scripts/agreement/stacks.toml`.",
)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "none"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

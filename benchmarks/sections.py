"""Writes the results of each benchmark into its section of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs" / "benchmarks.md"
_HEAD = "# Benchmarks\n\nEach section names its command and shows the results of the last run.\n"


def machine() -> str:
    """Return a line with the date and the machine of the measurement."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    cpu = model[1] if model else platform.machine()
    day = datetime.now(timezone.utc).date()
    return f"{day}, {os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def write_section(title: str, text: str) -> None:
    """Replace or add a section of the page."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else _HEAD
    section = f"## {title}\n\n{text.strip()}\n"
    match = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    page = page[: match.start()] + section + "\n" + page[match.end() :] if match else f"{page.rstrip()}\n\n{section}"
    PAGE.write_text(page.rstrip() + "\n", encoding="utf-8")

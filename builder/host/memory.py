"""The memory of this machine."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int:
    """Return the bytes of memory that programs can still use, 0 if the kernel does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    rows = dict(line.split(":", 1) for line in lines if ":" in line)
    words = rows.get("MemAvailable", "").split()
    return int(words[0]) * 1024 if words and words[0].isdecimal() else 0

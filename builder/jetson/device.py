"""The Jetson that this is, if it is one: what its kernel and its L4T release say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.jetson.boards import PART_NUMBER, boards

# The first line of L4T's own file: `# R36 (release), REVISION: 4.3, GCID: …`.
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_MADE_BY = "nvidia,tegra"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device: its own name for itself, the board of our table that it is, and its L4T release; None: not known."""

    model: str
    board: str | None
    l4t: str | None


def this_device(root: Path = Path("/")) -> Device | None:
    """Return the Jetson that this machine is, or None if it is none; `root` holds its `proc` and `etc`."""
    tree = root / "proc" / "device-tree"
    compatible = _text(tree / "compatible")
    l4t = _release(_text(root / "etc" / "nv_tegra_release"))
    if _MADE_BY not in compatible and l4t is None:
        return None
    parts = re.findall(PART_NUMBER, compatible)
    board = next((row.name for row in boards() if set(parts) & set(row.part_numbers)), None)
    return Device(model=_text(tree / "model").strip("\0\n") or "a Jetson", board=board, l4t=l4t)


def _release(text: str) -> str | None:
    match = _RELEASE.search(text)
    return f"{match[1]}.{match[2]}" if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

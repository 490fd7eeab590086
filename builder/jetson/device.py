"""This machine or another target: its board and L4T release, and why it cannot run an image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.jetson.boards import PART_NUMBER, Board, boards
from builder.jetson.hosts import runs

if TYPE_CHECKING:
    from builder.model.locks import Job

# The first line of L4T's own file: `# R36 (release), REVISION: 4.3, GCID: …`.
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_MADE_BY = "nvidia,tegra"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device: the model name in its device tree, its row in `boards.toml` and its L4T release; None if unknown."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetHost:
    """A machine for an image; `l4t` and `board` are None if it is not a Jetson, or unknown."""

    name: str
    architecture: str
    is_jetson: bool
    l4t: str | None = None
    board: Board | None = None


def cannot_run(job: Job, host: TargetHost) -> list[str]:
    """Return why a host cannot run a cell's image: architecture, driver or GPU."""
    platform, board = job.platform, host.board
    if platform.architecture != host.architecture:
        return [f"it is for {platform.architecture}, and {host.name} is {host.architecture}"]
    if platform.l4t is None:
        return []
    if not host.is_jetson:
        return [f"it is for a Jetson with L4T {platform.l4t}, and this is none"]
    reasons = []
    if host.l4t and (reason := runs(host.l4t, platform)):
        reasons.append(reason)
    if board and not host.l4t and platform.l4t.split(".")[0] not in board.l4t:
        reasons.append(f"it is for L4T {platform.l4t}, and {board.name} runs {', '.join(board.l4t)}")
    if board and board.sm not in platform.sms:
        reasons.append(f"its kernels are for SM {', '.join(platform.sms)}, and {board.name}'s GPU is SM {board.sm}")
    return reasons

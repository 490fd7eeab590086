"""This machine or another target: its board and L4T release, and why it cannot run an image.

The driver is the host's, the CUDA libraries are the image's; `hosts.toml` has the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from builder.host.toml import documents
from builder.host.toml.declarations import Source, declaration_of, nested, string, tables
from builder.jetson.boards import PART_NUMBER, Board, boards
from builder.jetson.distributions import version_numbers

if TYPE_CHECKING:
    from builder.host.toml.tables import Table
    from builder.model.locks import Job
    from builder.model.platforms import Platform

# The first line of L4T's own file: `# R36 (release), REVISION: 4.3, GCID: …`.
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)")
_MADE_BY = "nvidia,tegra"
# Of the kernel module, of its device, and of the driver under WSL.
_DRIVERS = ("proc/driver/nvidia", "dev/nvidiactl", "dev/dxg")
_HOSTS = Path(__file__).with_name("hosts.toml")
_VERSION = r"[0-9]+(\.[0-9]+){0,2}"
_L4T = string(_VERSION, "a release such as 36.4")


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device: the model name in its device tree, its row in `boards.toml` and its L4T release; None if unknown."""

    model: str
    board: str | None
    l4t: str | None


def this_device(root: Path = Path("/")) -> Device | None:
    """Return this machine's Jetson, or None if it is not one; `root` has its `proc` and `etc`."""
    tree = root / "proc" / "device-tree"
    compatible = _text(tree / "compatible")
    l4t = _release(_text(root / "etc" / "nv_tegra_release"))
    if _MADE_BY not in compatible and l4t is None:
        return None
    part_numbers = set(re.findall(PART_NUMBER, compatible))
    board = next((row.name for row in boards() if part_numbers & set(row.part_numbers)), None)
    return Device(model=_text(tree / "model").strip("\0\n") or "a Jetson", board=board, l4t=l4t)


def has_gpu_driver(root: Path = Path("/")) -> bool:
    """Return whether this machine shows the driver of an NVIDIA GPU: a Jetson's, a server's, or that of WSL."""
    return this_device(root) is not None or any((root / path).exists() for path in _DRIVERS)


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
        return [f"it is for {platform.architecture}, not for {host.name}"]
    if not platform.has_gpu:
        return []
    if platform.l4t is None:
        sms = ", ".join(platform.sms)
        return [] if board is None or board.sm in platform.sms else [_other_gpu(sms, board)]
    if not host.is_jetson:
        return [f"it is for a Jetson with L4T {platform.l4t}, and {host.name} is not a Jetson"]
    reasons = []
    if host.l4t and (reason := refusal_reason(host.l4t, platform)):
        reasons.append(reason)
    if board and not host.l4t and platform.l4t.split(".")[0] not in board.l4t:
        reasons.append(f"it is for L4T {platform.l4t}, and {board.name} runs {', '.join(board.l4t)}")
    if board and board.sm not in platform.sms:
        reasons.append(_other_gpu(", ".join(platform.sms), board))
    return reasons


def _other_gpu(sms: str, board: Board) -> str:
    return f"its kernels are for SM {sms}, and {board.name}'s GPU is SM {board.sm}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseRange:
    """L4T releases from one (inclusive) up to another (exclusive)."""

    start: Annotated[str, _L4T]
    below: Annotated[str, _L4T]

    def __contains__(self, release: str) -> bool:
        return version_numbers(self.start) <= version_numbers(release) < version_numbers(self.below)

    def __str__(self) -> str:
        return f"{self.start} up to {self.below}"


def _check_range(table: Table, row: ReleaseRange, _: None) -> None:
    if row.start and row.below and version_numbers(row.start) >= version_numbers(row.below):
        table.problem("below", f"{row.below} does not come after {row.start}")


_KEYS = {"start": "from"}
_RANGE = declaration_of(ReleaseRange, keys=_KEYS, check=_check_range)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRule(ReleaseRange):
    """Devices with these releases run images for the releases `images`."""

    images: Annotated[ReleaseRange, nested(_RANGE)]
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A known failure: on hosts of these releases, with images for `images` or with CUDA `cuda_from` and later."""

    hosts: Annotated[ReleaseRange, nested(_RANGE)]
    images: Annotated[ReleaseRange | None, nested(_RANGE, always=False)] = None
    cuda_from: Annotated[str | None, string(_VERSION, "a version such as 13.0")] = None
    reason: Annotated[str, string(".+", "a description of the failure")]
    source: Source

    def applies(self, host: str, image: Platform) -> bool:
        """Return whether an image fails in this way on a host."""
        if host not in self.hosts:
            return False
        if self.images is not None and (image.l4t or "") in self.images:
            return True
        return bool(self.cuda_from and image.cuda and version_numbers(image.cuda) >= version_numbers(self.cuda_from))


def _check_images(table: Table, row: Refusal, _: None) -> None:
    if row.images is None and row.cuda_from is None:
        table.problem(None, "a refusal must name images", "add `images` or `cuda-from`")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostRules:
    """All rows of `hosts.toml`."""

    hosts: Annotated[tuple[HostRule, ...], tables(declaration_of(HostRule, keys=_KEYS, check=_check_range))]
    refusals: Annotated[tuple[Refusal, ...], tables(declaration_of(Refusal, check=_check_images))]


@cache
def host_rules(path: Path = _HOSTS) -> HostRules:
    """Return the rules of a file.

    Raises:
        DocumentError: the file has mistakes.
    """
    return documents.load(path, "the host rules have mistakes", declaration_of(HostRules).read)


def refusal_reason(host_l4t: str, image: Platform) -> str | None:
    """Return why a device with an L4T release does not run an image of a platform, or None if it does.

    An image without a GPU runs on every arm64 device.
    """
    if image.architecture != "arm64":
        return f"the image is for {image.architecture}; every Jetson is arm64"
    if image.l4t is None:
        return None
    rules = host_rules()
    refusal = next((row for row in rules.refusals if row.applies(host_l4t, image)), None)
    if refusal:
        return f"{refusal.reason} [{refusal.source}]"
    row = next((row for row in rules.hosts if host_l4t in row), None)
    if row is None:
        return f"jbuild has no rule for devices with L4T {host_l4t}"
    if image.l4t in row.images:
        return None
    return f"a device with L4T {host_l4t} runs images for L4T {row.images}, not for {image.l4t} [{row.source}]"

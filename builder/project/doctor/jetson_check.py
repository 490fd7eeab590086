"""Checks a Jetson: release, board, power, heat, memory, and the images that it can run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.process import find_program, run
from builder.jetson.boards import board
from builder.jetson.device import TargetHost, cannot_run, this_device
from builder.jetson.distributions import platforms
from builder.project.doctor.check_table import ok, problem, skipped
from builder.recipe.find import recipe_paths
from builder.recipe.load import load_valid
from builder.recipe.matrix import expand, job_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.jetson.device import Device
    from builder.model.recipes import Recipe
    from builder.project.doctor.check_table import Check, DoctorContext

_NO_JETSON = "this machine is not a Jetson"
_ANSWER_S = 10
_MODE = re.compile(r"NV Power Mode:\s*(\S+)")
_FULL = "MAXN"
_PASSIVE = ("passive", "active", "hot")
# The least free share of the memory before jbuild runs anything.
_LEAST_FREE = 0.5
_MOST_REASONS = 3


def check(case: DoctorContext) -> Iterator[Check]:
    """Check the device, if the machine is a Jetson."""
    device = this_device(case.root)
    if device is None:
        yield skipped("device", _NO_JETSON)
        return
    yield _device(device)
    yield _power(device)
    yield _heat(case.root)
    yield _memory(case.root)
    yield from _images(case, device)


def _device(device: Device) -> Check:
    rows = [row for row in platforms() if row.l4t == device.l4t]
    text = f"{device.model}, L4T {device.l4t or 'of unknown release'}"
    if device.l4t is None or not rows:
        return problem("device", "unknown-release", text)
    if device.board is None:
        return problem("device", "unknown-board", f"{text} (JetPack {rows[0].jetpack})")
    return ok("device", f"{text} (JetPack {rows[0].jetpack}), {device.board}")


def _power(device: Device) -> Check:
    if find_program("nvpmodel") is None:
        return skipped("power", "nvpmodel is not installed: in a container the host's mode applies")
    try:
        output = run(["nvpmodel", "-q"], timeout_s=_ANSWER_S).stdout
    except JbuildError as error:
        return skipped("power", f"nvpmodel failed: {(error.log or error.message).strip()}")
    mode = _MODE.search(output)
    if mode is None:
        return skipped("power", f"nvpmodel shows no mode: {output.strip()}")
    modes = board(device.board).power_modes if device.board else ()
    text = mode[1] + (f" (modes: {', '.join(modes)})" if modes else "")
    # The weakest mode of several is often a factory setting, or a forgotten one.
    watts = {name: int(name.rstrip("W")) for name in modes if re.fullmatch(r"\d+W", name)}
    if len(watts) > 1 and mode[1] == min(watts, key=lambda name: watts[name]):
        return problem("power", "low", text)
    return ok("power", text if mode[1].startswith(_FULL) else f"{text}; {_FULL} is faster")


def _heat(root: Path) -> Check:
    """Compare the zones' temperatures with the kernel's limits for throttling (millidegrees)."""
    hottest, slowed = None, []
    for zone in sorted((root / "sys" / "class" / "thermal").glob("thermal_zone*")):
        now = _number(zone / "temp")
        if now is None:
            continue
        name = _word(zone / "type") or zone.name
        hottest = max(hottest or (now, name), (now, name))
        limits = [_number(zone / f"{kind.name.removesuffix('_type')}_temp") for kind in zone.glob("trip_point_*_type")
                  if _word(kind) in _PASSIVE]  # fmt: skip
        reached = [limit for limit in limits if limit and now >= limit]
        if reached:
            slowed.append(f"{name} {now / 1000:.0f} °C (limit {min(reached) / 1000:.0f} °C)")
    if slowed:
        return problem("heat", "throttling", ", ".join(slowed))
    if hottest is None:
        return skipped("heat", "no thermal zone shows its temperature")
    return ok("heat", f"{hottest[1]} {hottest[0] / 1000:.0f} °C is the hottest")


def _memory(root: Path) -> Check:
    text = _word(root / "proc" / "meminfo")
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
    if not total:
        return skipped("memory", "the kernel does not show it")
    text = f"{free / (1 << 30):.1f} of {total / (1 << 30):.1f} GiB are free"
    return problem("memory", "short", text) if free < total * _LEAST_FREE else ok("memory", text)


def _images(case: DoctorContext, device: Device) -> Iterator[Check]:
    if device.l4t is None:
        yield skipped("images", "the device's release is unknown")
        return
    paths = recipe_paths(case.session.workspace.recipe_folders).values()
    recipes = [case.recipe] if case.recipe else load_valid(paths)
    for recipe in recipes:
        yield _recipe(recipe, device, device.l4t)


def _recipe(recipe: Recipe, device: Device, l4t: str) -> Check:
    row = board(device.board) if device.board else None
    host = TargetHost(name=device.model, architecture="arm64", is_jetson=True, l4t=l4t, board=row)
    able, reasons = [], dict[str, list[str]]()
    for cell in expand(recipe):
        if cell.impossible:
            continue
        why = cannot_run(job_of(recipe, cell), host)
        if why:
            reasons.setdefault("; ".join(why), []).append(cell.id)
        else:
            able.append(cell.id)
    unsuitable = "; ".join(f"not {', '.join(cells)}: {why}" for why, cells in list(reasons.items())[:_MOST_REASONS])
    if not able:
        return problem("images", "none", f"{recipe.name}: {unsuitable or 'it has no possible cell'}", l4t=l4t)
    return ok("images", f"{recipe.name}: {', '.join(able)}" + (f"; {unsuitable}" if unsuitable else ""))


def _number(path: Path) -> int | None:
    text = _word(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

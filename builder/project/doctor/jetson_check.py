"""On a Jetson: release, board, power, heat, memory, and which images it can run."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from builder.device.serve.image_choice import TargetHost, cannot_run
from builder.errors import DocumentError, JbuildError
from builder.host.process import find_program, run
from builder.jetson.boards import board
from builder.jetson.device import this_device
from builder.jetson.distributions import platforms
from builder.project.doctor.check_table import fine, idle, trouble
from builder.recipe.find import recipe_paths
from builder.recipe.job import job_of
from builder.recipe.load import load
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.jetson.device import Device
    from builder.model.recipes import Recipe
    from builder.project.doctor.check_records import Check, DoctorContext

_NO_JETSON = "this machine is no Jetson"
_ANSWER_S = 10
_MODE = re.compile(r"NV Power Mode:\s*(\S+)")
_FULL = "MAXN"
_PASSIVE = ("passive", "active", "hot")
# Less than this part of its memory is left before anything of ours runs.
_LEAST_FREE = 0.5
_MOST_REASONS = 3


def check(case: DoctorContext) -> Iterator[Check]:
    """Look at the device, if this is one."""
    device = this_device(case.root)
    if device is None:
        yield idle("device", _NO_JETSON)
        return
    yield _device(device)
    yield _power(device)
    yield _heat(case.root)
    yield _memory(case.root)
    yield from _images(case, device)


def _device(device: Device) -> Check:
    known = [row for row in platforms() if row.l4t == device.l4t]
    found = f"{device.model}, L4T {device.l4t or 'of unknown release'}"
    if device.l4t is None or not known:
        return trouble("device", "unknown-release", found)
    if device.board is None:
        return trouble("device", "unknown-board", f"{found} (JetPack {known[0].jetpack})")
    return fine("device", f"{found} (JetPack {known[0].jetpack}), {device.board}")


def _power(device: Device) -> Check:
    if find_program("nvpmodel") is None:
        return idle("power", "there is no nvpmodel: in a container the host's mode counts")
    try:
        said = run(["nvpmodel", "-q"], timeout_s=_ANSWER_S).stdout
    except JbuildError as error:
        return idle("power", f"nvpmodel does not tell: {(error.log or error.message).strip()}")
    mode = _MODE.search(said)
    if mode is None:
        return idle("power", f"nvpmodel tells no mode: {said.strip()}")
    modes = board(device.board).power_modes if device.board else ()
    found = mode[1] + (f" (modes: {', '.join(modes)})" if modes else "")
    # The weakest of several is what a device is shipped with, or was once set to and forgotten.
    watts = {name: int(name.rstrip("W")) for name in modes if re.fullmatch(r"\d+W", name)}
    if len(watts) > 1 and mode[1] == min(watts, key=lambda name: watts[name]):
        return trouble("power", "low", found)
    return fine("power", found if mode[1].startswith(_FULL) else f"{found}; {_FULL} is faster")


def _heat(root: Path) -> Check:
    """Compare the zones' temperatures with those from which the kernel slows the device down (millidegrees)."""
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
        return trouble("heat", "throttling", ", ".join(slowed))
    if hottest is None:
        return idle("heat", "no thermal zone tells its temperature")
    return fine("heat", f"{hottest[1]} {hottest[0] / 1000:.0f} °C is the hottest")


def _memory(root: Path) -> Check:
    text = _word(root / "proc" / "meminfo")
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
    if not total:
        return idle("memory", "the kernel does not tell")
    found = f"{free / (1 << 30):.1f} of {total / (1 << 30):.1f} GiB are free"
    return trouble("memory", "short", found) if free < total * _LEAST_FREE else fine("memory", found)


def _images(case: DoctorContext, device: Device) -> Iterator[Check]:
    recipes = [case.recipe] if case.recipe else _recipes(case)
    if device.l4t is None:
        yield idle("images", "without the device's release nothing can be told")
        return
    for recipe in recipes:
        yield _recipe(recipe, device, device.l4t)


def _recipes(case: DoctorContext) -> list[Recipe]:
    found = []
    for path in recipe_paths(case.session.workspace.recipe_folders).values():
        # One with mistakes is told of by `jbuild list`.
        with suppress(DocumentError):
            found.append(load(path))
    return found


def _recipe(recipe: Recipe, device: Device, l4t: str) -> Check:
    known = board(device.board) if device.board else None
    host = TargetHost(name=device.model, architecture="arm64", is_jetson=True, l4t=l4t, board=known)
    able, reasons = [], dict[str, list[str]]()
    for cell in expand(recipe):
        if cell.impossible:
            continue
        why = cannot_run(job_of(recipe, cell), host)
        if why:
            reasons.setdefault("; ".join(why), []).append(cell.id)
        else:
            able.append(cell.id)
    others = "; ".join(f"not {', '.join(cells)}: {why}" for why, cells in list(reasons.items())[:_MOST_REASONS])
    if not able:
        return trouble("images", "none", f"{recipe.name}: {others or 'it has no cell that can be made'}", l4t=l4t)
    return fine("images", f"{recipe.name}: {', '.join(able)}" + (f"; {others}" if others else ""))


def _number(path: Path) -> int | None:
    text = _word(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

"""A Jetson knows which one it is; anything else knows that it is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.jetson.boards import boards
from builder.jetson.device import Device, this_device

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan 8\n# KERNEL\n"


def machine(root: Path, *, compatible: str = "", model: str = "", release: str | None = None) -> Path:
    tree = root / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (root / "etc").mkdir()
    (tree / "compatible").write_text(compatible)
    (tree / "model").write_text(model)
    if release is not None:
        (root / "etc" / "nv_tegra_release").write_text(release)
    return root


def test_an_orin_nx(tmp_path: Path) -> None:
    name = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    compatible = "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0"
    root = machine(tmp_path, compatible=compatible, model=f"{name}\0", release=RELEASE)
    assert this_device(root) == Device(model=name, board="orin-nx-16", l4t="36.4.3")


@pytest.mark.parametrize(
    ("part", "board"),
    [
        ("p3767-0005-super", "orin-nano-8"),
        ("p3767-0001", "orin-nx-8"),
        ("p3701-0000", "agx-orin-32"),
        ("p3701-0005", "agx-orin-64"),
        ("p3834-0008", "agx-thor-128"),
        ("p3668-0001", "xavier-nx-8"),
    ],
)
def test_a_board_by_its_module(tmp_path: Path, part: str, board: str) -> None:
    compatible = f"nvidia,p3768-0000+{part}\0nvidia,tegra234\0"
    root = machine(tmp_path, compatible=compatible, release="# R39 (release), REVISION: 2.0, GCID: 1")
    found = this_device(root)
    assert found
    assert (found.board, found.l4t, found.model) == (board, "39.2.0", "a Jetson")


@pytest.mark.parametrize("release", [None, "", "R36 without a revision", "\udcff# R (release)"])
def test_a_board_of_a_maker_nobody_knows(tmp_path: Path, release: str | None) -> None:
    text = release and release.encode(errors="surrogateescape").decode(errors="replace")
    root = machine(tmp_path, compatible="acme,board\0nvidia,tegra234\0", model="Acme\0", release=text)
    assert this_device(root) == Device(model="Acme", board=None, l4t=None)


def test_other_machines_are_none(tmp_path: Path) -> None:
    assert this_device(machine(tmp_path / "pi", compatible="raspberrypi,5-model-b\0brcm,bcm2712\0")) is None
    assert this_device(tmp_path / "nothing") is None


def test_no_part_is_that_of_two_boards() -> None:
    parts = [part for row in boards() for part in row.part_numbers]
    assert len(parts) == len(set(parts))
    assert all(row.part_numbers for row in boards())

"""A Jetson knows which one it is; anything else knows that it is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from factories import make_jetson, make_platform

from builder.errors import DocumentError
from builder.jetson.boards import boards
from builder.jetson.device import Device, has_gpu_driver, host_rules, refusal_reason, this_device
from builder.jetson.distributions import platforms
from builder.jetson.platform import platform_for

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


@pytest.mark.parametrize("path", ["proc/driver/nvidia", "dev/nvidiactl", "dev/dxg"])
def test_a_driver_of_a_gpu_shows(tmp_path: Path, path: str) -> None:
    assert not has_gpu_driver(tmp_path)
    (tmp_path / path).mkdir(parents=True)
    assert has_gpu_driver(tmp_path)
    assert has_gpu_driver(machine(tmp_path / "jetson", release=RELEASE))


def test_an_orin_nx(tmp_path: Path) -> None:
    name = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    compatible = "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0"
    root = machine(tmp_path, compatible=compatible, model=f"{name}\0", release=RELEASE)
    assert this_device(root) == Device(model=name, board="orin-nx-16", l4t="36.4.3")


@pytest.mark.parametrize(
    ("part_number", "board"),
    [
        ("p3767-0005-super", "orin-nano-8"),
        ("p3767-0001", "orin-nx-8"),
        ("p3701-0000", "agx-orin-32"),
        ("p3701-0005", "agx-orin-64"),
        ("p3834-0008", "agx-thor-128"),
        ("p3668-0001", "xavier-nx-8"),
    ],
)
def test_a_board_by_its_module(tmp_path: Path, part_number: str, board: str) -> None:
    compatible = f"nvidia,p3768-0000+{part_number}\0nvidia,tegra234\0"
    root = machine(tmp_path, compatible=compatible, release="# R39 (release), REVISION: 2.0, GCID: 1")
    device = this_device(root)
    assert device
    assert (device.board, device.l4t, device.model) == (board, "39.2.0", "a Jetson")


@pytest.mark.parametrize("release", [None, "", "R36 without a revision", "\udcff# R (release)"])
def test_a_board_of_an_unknown_maker(tmp_path: Path, release: str | None) -> None:
    text = release and release.encode(errors="surrogateescape").decode(errors="replace")
    root = machine(tmp_path, compatible="acme,board\0nvidia,tegra234\0", model="Acme\0", release=text)
    assert this_device(root) == Device(model="Acme", board=None, l4t=None)


def test_other_machines_are_none(tmp_path: Path) -> None:
    assert this_device(machine(tmp_path / "pi", compatible="raspberrypi,5-model-b\0brcm,bcm2712\0")) is None
    assert this_device(tmp_path / "nothing") is None


def test_no_part_is_that_of_two_boards() -> None:
    numbers = [part_number for row in boards() for part_number in row.part_numbers]
    assert len(numbers) == len(set(numbers))
    assert all(row.part_numbers for row in boards())


GOOD = """[[hosts]]
from = "36.4"
below = "37"
images = { from = "36.4", below = "37" }
source = "somewhere"

[[refusals]]
hosts = { from = "36", below = "37" }
cuda-from = "13.0"
reason = "the driver refuses it"
source = "somewhere"
"""


@pytest.mark.parametrize(
    ("host", "l4t", "cuda", "reason"),
    [
        ("35.6.4", "35.4.1", "11.4", None),
        ("35.4.1", "36.4.0", "12.6", "runs images for L4T 35 up to 36, not for 36.4.0"),
        ("36.4.0", "35.4.1", "11.4", "runs images for L4T 36.4 up to 37, not for 35.4.1"),
        ("36.2.0", "36.3.0", "12.2", None),
        ("36.3.0", "36.2.0", "12.2", None),
        ("36.3.0", "36.4.0", "12.6", "runs images for L4T 36.2 up to 36.4, not for 36.4.0"),
        ("36.4.7", "36.3.0", "12.2", "runs images for L4T 36.4 up to 37, not for 36.3.0"),
        ("36.4.7", "36.4.0", "12.8", None),
        ("36.5.0", "36.4.0", "12.6", None),
        ("38.4.0", "36.4.0", "12.6", "CUDA does not start in a JetPack 6 container on a JetPack 7 host (error 801)"),
        ("39.2.0", "36.5.0", "12.6", "error 801"),
        ("36.4.4", "38.2.0", "13.0", "JetPack 6's driver (540) refuses CUDA 13"),
        ("36.4.4", "39.2.0", "13.2", "JetPack 6's driver (540) refuses CUDA 13"),
        ("39.2.0", "39.2.0", "13.2", None),
        ("38.2.0", "39.2.0", "13.2", "runs images for L4T 38 up to 39, not for 39.2.0"),
        ("32.7.1", "36.4.0", "12.6", "no rule for devices with L4T 32.7.1"),
        ("nonsense", "36.4.0", "12.6", "no rule for devices with L4T nonsense"),
    ],
)
def test_which_image_a_device_runs(host: str, l4t: str, cuda: str, reason: str | None) -> None:
    refusal = refusal_reason(host, make_jetson(l4t=l4t, cuda=cuda))
    assert (refusal is None) if reason is None else (refusal is not None and reason in refusal), refusal


def test_a_cpu_image_runs_on_every_jetson_and_an_amd64_one_on_none() -> None:
    assert refusal_reason("36.4.0", make_platform()) is None
    assert refusal_reason("32.7.1", make_platform()) is None
    assert (
        refusal_reason("36.4.0", make_platform(architecture="amd64")) == "the image is for amd64; every Jetson is arm64"
    )


def test_every_release_runs_its_own_images_and_a_reason_has_its_source() -> None:
    for row in platforms():
        own = platform_for((("l4t", row.l4t),), "arm64")
        assert refusal_reason(row.l4t, own) is None, row.l4t
        for other in platforms():
            reason = refusal_reason(other.l4t, own)
            assert reason is None or reason.endswith("]"), (row.l4t, other.l4t)


def test_every_row_has_a_source() -> None:
    rules = host_rules()
    assert rules.hosts
    assert all(rule.source for rule in rules.hosts)
    assert all(refusal.source for refusal in rules.refusals)


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ('below = "37"\nimages', 'below = "36.4"\nimages', "hosts[0].below", "36.4 does not come after 36.4"),
        ('from = "36.4"\nbelow', 'from = "r36"\nbelow', "hosts[0].from", "`r36` is not a release such as 36.4"),
        ('images = { from = "36.4", below = "37" }\n', "", "hosts[0].images", "`from` is missing"),
        ('cuda-from = "13.0"\n', "", "refusals[0]", "a refusal must name images"),
        ('"13.0"', '"thirteen"', "refusals[0].cuda-from", "`thirteen` is not a version such as 13.0"),
        ("reason", "why", "refusals[0].why", "unknown key `why`"),
        ('below = "37" }\nsource', 'below = "37", to = "38" }\nsource', "hosts[0].images.to", "unknown key `to`"),
    ],
)
def test_bad_rows(tmp_path: Path, old: str, new: str, key: str, message: str) -> None:
    path = tmp_path / "hosts.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        host_rules(path)
    assert (key, message) in [(p.key, p.message) for p in caught.value.problems]

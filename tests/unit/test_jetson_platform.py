from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest

from builder.errors import RecipeError
from builder.jetson.distributions import distributions, platforms, standalone
from builder.jetson.platform import ImpossibleError, check_value, platform_for

if TYPE_CHECKING:
    from builder.model.platforms import Platform
    from builder.model.recipes import Architecture


def found(**axes: str) -> Platform:
    architecture: Architecture = "amd64" if axes.pop("architecture", "") == "amd64" else "arm64"
    base = axes.pop("base", None)
    return platform_for(tuple(axes.items()), architecture, base)


def test_a_distribution() -> None:
    platform = found(distribution="debian-12", python="3.11", vllm="0.15.1")
    assert (platform.name, platform.release, platform.python, platform.glibc) == (
        "debian-12",
        "bookworm",
        "3.11",
        "2.36",
    )
    assert platform.base == "docker.io/library/debian:bookworm-slim"
    assert (platform.l4t, platform.cuda, platform.sms) == (None, None, ())


def test_a_jetson_with_its_own_defaults() -> None:
    platform = found(l4t="36.4.4")
    assert (platform.name, platform.jetpack, platform.release, platform.python) == (
        "l4t-36.4.4",
        "6.2.1",
        "22.04",
        "3.10",
    )
    assert (platform.cuda, platform.sms, platform.glibc, platform.glibcxx) == ("12.6", ("8.7",), "2.35", "3.4.30")
    assert platform.base == "nvcr.io/nvidia/l4t-jetpack:r36.4.0"


@pytest.mark.parametrize("axes", [{"ubuntu": "24.04"}, {"python": "3.12"}, {"ubuntu": "24.04", "cuda": "12.8"}])
def test_jetpack_6_on_ubuntu_24_04_brings_its_own_cuda(axes: dict[str, str]) -> None:
    platform = found(l4t="36.4.0", **axes)
    assert platform.name == "l4t-36.4.0-ubuntu-24.04"
    assert (platform.release, platform.python, platform.cuda, platform.glibc) == ("24.04", "3.12", "12.8", "2.39")
    assert platform.base == "docker.io/library/ubuntu:24.04"


def test_the_axes_choose_among_published_cuda_versions() -> None:
    assert found(l4t="36.4.0", cuda="12.9").cuda == "12.9"
    assert found(l4t="36.3.0").cuda == "12.2"
    assert found(l4t="39.2.0", cuda="13.0").sms == ("8.7", "11.0")


@pytest.mark.parametrize(
    ("axes", "cuda"),
    [({}, "12.6"), ({"cuda": "12.9"}, "12.9")],
)
def test_python_3_12_on_ubuntu_22_04_comes_from_python_build_standalone(axes: dict[str, str], cuda: str) -> None:
    platform = found(l4t="36.4.0", python="3.12", ubuntu="22.04", **axes)
    assert (platform.name, platform.release, platform.glibc) == ("l4t-36.4.0", "22.04", "2.35")
    assert (platform.python, platform.cuda, platform.python_packages) == ("3.12", cuda, ())
    assert platform.base == "nvcr.io/nvidia/l4t-jetpack:r36.4.0"
    assert platform.standalone == standalone("3.12").release
    assert platform.note == "Python 3.12 from python-build-standalone"


def test_what_a_distribution_packages_is_not_fetched() -> None:
    for axes in ({}, {"python": "3.12"}, {"python": "3.12", "ubuntu": "24.04"}, {"python": "3.10"}):
        platform = found(l4t="36.4.0", **axes)
        assert (platform.standalone, platform.note) == (None, None)
        assert f"python{platform.python}" in platform.python_packages


def test_a_python_beside_a_distributions_own() -> None:
    platform = found(distribution="debian-13", python="3.11")
    assert (platform.python, platform.release, platform.standalone) == ("3.11", "trixie", standalone("3.11").release)


def test_a_recipe_can_bring_its_base() -> None:
    assert found(base="example.org/own:1", l4t="36.4.0").base == "example.org/own:1"


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"distribution": "debian-12", "python": "3.12"}, "debian-12 has Python 3.11, not 3.12"),
        ({"distribution": "debian-12", "cuda": "12.6"}, "debian-12 is a platform without a GPU and has no CUDA 12.6"),
        ({"distribution": "debian-12", "ubuntu": "22.04"}, "debian-12 is not Ubuntu 22.04"),
        (
            {"l4t": "36.4.0", "python": "3.11"},
            "L4T 36.4.0 has no Python 3.11 (it has 3.10 on Ubuntu 22.04, 3.12 on Ubuntu 24.04)",
        ),
        (
            {"l4t": "36.4.0", "cuda": "13.0"},
            (
                "CUDA 13.0 is not published for L4T 36.4.0 "
                "(known: 12.6, 12.8, 12.9 on Ubuntu 22.04; 12.8, 12.9 on Ubuntu 24.04)"
            ),
        ),
        (
            {"l4t": "36.4.0", "python": "3.12", "cuda": "12.6"},
            (
                "CUDA 12.6 for L4T 36.4.0 needs Ubuntu 22.04, which does not package Python 3.12 "
                "(that Python has CUDA 12.8, 12.9 on Ubuntu 24.04); "
                'add the axis `ubuntu = ["22.04"]` to download that Python'
            ),
        ),
        (
            {"l4t": "36.4.0", "python": "3.11", "ubuntu": "22.04"},
            "L4T 36.4.0 has no Python 3.11 (it has 3.10 on Ubuntu 22.04, 3.12 on Ubuntu 22.04)",
        ),
        ({"l4t": "35.4.1", "python": "3.12"}, "L4T 35.4.1 has no Python 3.12 (it has 3.8 on Ubuntu 20.04)"),
        ({"distribution": "debian-13", "python": "3.10"}, "debian-13 has Python 3.13, 3.11, 3.12, not 3.10"),
        ({"l4t": "35.4.1", "ubuntu": "22.04"}, "L4T 35.4.1 has no image on Ubuntu 22.04 (known: 20.04)"),
        ({"l4t": "36.4.0", "architecture": "amd64"}, "L4T 36.4.0 runs on arm64 only, not on amd64"),
    ],
)
def test_what_does_not_exist_has_a_reason(axes: dict[str, str], reason: str) -> None:
    with pytest.raises(ImpossibleError) as caught:
        found(**axes)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("axes", "message", "hint"),
    [
        ({"l4t": "36.4.1"}, "unknown L4T release `36.4.1`", "nearest: 36.4.0, 36.4.3, 36.4.4"),
        (
            {"l4t": "r35.6"},
            "unknown L4T release `r35.6`: L4T 35.6 has the releases 35.6.0, 35.6.1, 35.6.2, 35.6.4",
            'write "35.6.0", "35.6.1", "35.6.2" or "35.6.4"',
        ),
        ({"l4t": "next"}, "unknown L4T release `next`", "nearest: 35.1.0, 35.2.1, 35.3.1"),
        (
            {"distribution": "debian-11"},
            "unknown distribution `debian-11`",
            "known: debian-12, debian-13, ubuntu-20.04, ubuntu-22.04, ubuntu-24.04",
        ),
        ({"l4t": "36.4.0", "ubuntu": "22.40"}, "unknown Ubuntu release `22.40`", "did you mean `22.04`?"),
        (
            {"l4t": "36.4.0", "python": "3.10.2"},
            "`3.10.2` is not a python version",
            "write major and minor, such as 3.11",
        ),
        ({"l4t": "36.4.0", "cuda": "cu126"}, "`cu126` is not a cuda version", "write major and minor, such as 12.6"),
        ({"vllm": "0.9.3"}, "no axis selects a platform", None),
        ({"l4t": "36.4.0", "distribution": "debian-12"}, "`l4t` and `distribution` both select a platform", None),
    ],
)
def test_unknown_values_name_the_nearest(axes: dict[str, str], message: str, hint: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        found(**axes)
    assert not isinstance(caught.value, ImpossibleError)
    assert caught.value.message == message
    assert hint is None or caught.value.hint == hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("6.2", "JetPack 6.2 is L4T 36.4.3"),
        ("6.1", "JetPack 6.1 is L4T 36.4.0"),
        ("6.2.0", "JetPack 6.2 is L4T 36.4.3"),
        ("6.2.1", "JetPack 6.2.1 is L4T 36.4.4 or 36.4.7"),
        ("5.1.2", "JetPack 5.1.2 is L4T 35.4.1"),
        ("7.0", "JetPack 7.0 is L4T 38.2.0, 38.2.1 or 38.2.2"),
        ("jetpack-6.2", "JetPack 6.2 is L4T 36.4.3"),
        ("JetPack 6.2", "JetPack 6.2 is L4T 36.4.3"),
        ("jp6.2", "JetPack 6.2 is L4T 36.4.3"),
        ("6.0-dp", "JetPack 6.0 DP is L4T 36.2.0"),
        ("r36.4.3", "it is written 36.4.3 here"),
        ("L4T-R36.4.3", "it is written 36.4.3 here"),
        ("R36 (release), REVISION: 4.3", "it is written 36.4.3 here"),
        ("36.4", "L4T 36.4 has the releases 36.4.0, 36.4.3, 36.4.4, 36.4.7"),
        ("6", "JetPack 6 has several releases"),
        ("jetpack-4.6.1", "JetPack 4.6.1 is unknown"),
    ],
)
def test_other_names_of_releases_lead_to_them(name: str, words: str) -> None:
    mistake = check_value("l4t", name)
    assert mistake
    assert mistake[0] == f"unknown L4T release `{name}`: {words}"
    assert mistake[1].startswith("write ")


def test_every_jetpack_of_the_table_leads_to_its_releases() -> None:
    for row in platforms():
        mistake = check_value("l4t", f"jetpack-{row.jetpack}")
        assert mistake
        assert f'"{row.l4t}"' in mistake[1]


def test_every_row_gives_a_platform() -> None:
    for row in platforms():
        for cuda in (None, row.cuda, *row.cuda_published):
            platform = found(l4t=row.l4t, **({"cuda": cuda} if cuda else {}))
            assert platform.cuda == (cuda or row.cuda)
    for distribution in distributions():
        for architecture in ("arm64", "amd64"):
            assert found(architecture=architecture, distribution=distribution.name).architecture == architecture


def test_pages_that_a_row_was_compared_with_make_no_lock_stale() -> None:
    rows = [row for row in platforms() if row.checked]
    assert rows
    for row in rows:
        platform = found(l4t=row.l4t)
        # A lock has the fingerprint of all fields of its platform.
        assert row.checked not in [getattr(platform, field.name) for field in fields(platform)]


@pytest.mark.parametrize("sm", ["8.7", "11.0", "8.7+11.0"])
def test_the_axis_sm_narrows_the_gpus_and_nothing_else(sm: str) -> None:
    whole, narrowed = found(l4t="39.2.0"), found(l4t="39.2.0", sm=sm)
    assert narrowed.sms == tuple(sm.split("+"))
    assert replace(narrowed, sms=whole.sms) == whole


@pytest.mark.parametrize(
    ("value", "problem", "hint"),
    [
        ("87", "`87` is not a compute capability", "write 8.7"),
        ("sm_110", "`sm_110` is not a compute capability", "write 11.0"),
        ("orin", "`orin` is not a compute capability", "write 8.7, or 8.7+11.0 for images that serve both"),
        ("9.4", "no platform has a GPU with SM 9.4", "known: 7.0, 7.2"),
        ("11.0+8.7", "`11.0+8.7` is not in order", "write 8.7+11.0"),
        ("8.7+8.7", "`8.7+8.7` is not in order", "write 8.7"),
    ],
)
def test_a_wrong_value_of_sm_is_corrected(value: str, problem: str, hint: str) -> None:
    mistake = check_value("sm", value)
    assert mistake
    assert mistake[0] == problem
    assert mistake[1].startswith(hint)


def test_a_gpu_that_the_release_lacks_is_impossible() -> None:
    with pytest.raises(ImpossibleError, match=r"L4T 36\.4\.0 has no GPU with SM 8\.7\+11\.0 \(it has 8\.7\)"):
        found(l4t="36.4.0", sm="8.7+11.0")


def test_a_machine_with_a_gpu_of_its_own_memory() -> None:
    platform = found(architecture="amd64", sm="9.0", cuda="13.0", python="3.12")
    assert (platform.name, platform.l4t, platform.cuda, platform.sms) == ("gpu-cuda-13.0", None, "13.0", ("9.0",))
    assert (platform.distribution, platform.base) == ("ubuntu-24.04", "docker.io/library/ubuntu:24.04")
    assert platform.has_gpu
    assert found(architecture="amd64", sm="8.9+9.0").cuda == "13.0"
    assert found(architecture="amd64", sm="7.0").cuda == "12.9"


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"sm": "9.0"}, "no platform for GPUs with SM 9.0 on arm64 is known without `l4t`"),
        ({"architecture": "amd64", "sm": "9.0", "cuda": "11.4"}, "CUDA 11.4 is not known for machines on amd64"),
        ({"architecture": "amd64", "sm": "7.0", "cuda": "13.0"}, "CUDA 13.0 serves no GPU with SM 7.0"),
        ({"architecture": "amd64", "sm": "9.0", "ubuntu": "22.04"}, "CUDA 13.0 has no image on Ubuntu 22.04"),
        ({"architecture": "amd64", "sm": "9.0", "python": "3.9"}, "ubuntu-24.04 has Python 3.12"),
    ],
)
def test_a_machine_that_does_not_exist(axes: dict[str, str], reason: str) -> None:
    with pytest.raises(ImpossibleError, match=re.escape(reason)):
        found(**axes)


def test_a_distribution_has_no_gpu() -> None:
    with pytest.raises(RecipeError, match="selects a platform without a GPU"):
        found(distribution="debian-12", sm="9.0")

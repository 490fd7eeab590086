"""A platform in the words of wheels, held against what `packaging` and uv know."""

from __future__ import annotations

import re

import pytest
from factories import make_jetson, make_platform
from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, create_compatible_tags_selector
from packaging.utils import parse_wheel_filename

from builder.host.process import run
from builder.jetson.distributions import distributions
from builder.lock.solve import uv
from builder.lock.uv_target import machine, markers, tags, uv_flags

DEBIAN = make_platform()
JETSON = make_jetson()


def best(*filenames: str, platform: object = DEBIAN) -> str | None:
    """Return the wheel that an installer would take."""
    select = create_compatible_tags_selector(tags(platform))  # type: ignore[arg-type]
    return next(select((name, parse_wheel_filename(name)[-1]) for name in filenames), None)


def wheel(tag: str) -> str:
    return f"demo-1.0-{tag}.whl"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("cp311-cp311-manylinux_2_28_aarch64", "cp311-cp311-linux_aarch64"),
        ("cp311-cp311-manylinux_2_34_aarch64", "cp311-cp311-manylinux_2_28_aarch64"),
        ("cp311-cp311-manylinux_2_28_aarch64", "cp311-cp311-manylinux2014_aarch64"),
        ("cp311-cp311-manylinux_2_17_aarch64", "cp311-cp311-manylinux2014_aarch64"),
        ("cp311-cp311-linux_aarch64", "cp311-abi3-manylinux_2_28_aarch64"),
        ("cp38-abi3-manylinux_2_28_aarch64", "py3-none-any"),
        ("cp39-abi3-linux_aarch64", "cp38-abi3-linux_aarch64"),
        ("py3-none-manylinux_2_28_aarch64", "py3-none-any"),
        ("py311-none-any", "py3-none-any"),
    ],
)
def test_the_better_wheel_wins(better: str, worse: str) -> None:
    assert best(wheel(worse), wheel(better)) == wheel(better)


@pytest.mark.parametrize(
    "tag",
    [
        "cp311-cp311-manylinux_2_36_aarch64",
        "cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64",
        "cp38-abi3-manylinux_2_28_aarch64",
        "cp311-none-any",
        "py2.py3-none-any",
        "py3-none-linux_aarch64",
    ],
)
def test_a_wheel_that_fits_is_accepted(tag: str) -> None:
    assert best(wheel(tag)) == wheel(tag)


@pytest.mark.parametrize(
    "tag",
    [
        "cp312-cp312-manylinux_2_28_aarch64",
        "cp310-cp310-manylinux_2_28_aarch64",
        "cp312-abi3-manylinux_2_28_aarch64",
        "cp311-cp311-manylinux_2_37_aarch64",
        "cp311-cp311-manylinux_2_39_aarch64",
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp311-cp311-musllinux_1_2_aarch64",
        "cp311-cp311t-manylinux_2_28_aarch64",
        "cp311-cp311-macosx_11_0_arm64",
        "cp311-cp311-win_amd64",
        "pp311-pypy311_pp73-manylinux_2_28_aarch64",
        "py2-none-any",
    ],
)
def test_a_wheel_that_does_not_fit_is_refused(tag: str) -> None:
    assert best(wheel(tag)) is None


@pytest.mark.parametrize("glibc", [27, 31, 35, 39])
def test_glibc_is_a_ceiling(glibc: int) -> None:
    platform = make_platform(glibc=f"2.{glibc}")
    assert best(wheel(f"cp311-cp311-manylinux_2_{glibc}_aarch64"), platform=platform)
    assert not best(wheel(f"cp311-cp311-manylinux_2_{glibc + 1}_aarch64"), platform=platform)


def test_a_jetson_takes_the_wheels_of_its_own_python() -> None:
    assert best(wheel("cp311-cp311-linux_aarch64"), platform=JETSON) is None
    assert best(wheel("cp310-cp310-linux_aarch64"), platform=JETSON)
    assert best(wheel("cp310-cp310-manylinux_2_36_aarch64"), platform=JETSON) is None


def test_order_is_that_of_packaging() -> None:
    """The same list as packaging makes, had it run on the platform."""
    platforms = []
    for minor in range(36, 16, -1):
        platforms.append(f"manylinux_2_{minor}_aarch64")
        platforms += ["manylinux2014_aarch64"] if minor == 17 else []
    platforms.append("linux_aarch64")
    expected = [*cpython_tags((3, 11), ["cp311"], platforms), *compatible_tags((3, 11), "cp311", platforms)]
    assert tags(DEBIAN) == expected


def test_old_names_of_manylinux_stand_behind_the_new_ones() -> None:
    names = [tag.platform for tag in tags(make_platform(architecture="amd64")) if tag.abi == "cp311"]
    assert names[names.index("manylinux_2_12_x86_64") + 1] == "manylinux2010_x86_64"
    assert names[-3:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64", "linux_x86_64"]


def test_no_tag_stands_twice() -> None:
    found = tags(DEBIAN)
    assert len(found) == len(set(found))
    assert all(isinstance(tag, Tag) for tag in found)


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ("platform_machine == 'aarch64'", True),
        ("platform_machine == 'x86_64'", False),
        ("sys_platform == 'linux' and os_name == 'posix'", True),
        ("platform_system == 'Darwin'", False),
        ("python_version >= '3.11' and python_version < '3.12'", True),
        ("python_full_version < '3.11.4'", True),
        ("implementation_name == 'cpython'", True),
        ("platform_python_implementation == 'PyPy'", False),
        ("extra == 'dev'", False),
    ],
)
def test_markers_are_those_of_the_target(marker: str, holds: bool) -> None:
    assert Marker(marker).evaluate({**markers(DEBIAN), "extra": ""}) is holds


def test_no_marker_is_taken_from_this_machine() -> None:
    from packaging.markers import default_environment  # noqa: PLC0415

    assert set(default_environment()) <= set(markers(DEBIAN))


def test_flags_for_uv() -> None:
    assert uv_flags(JETSON) == [
        *("--python-version", "3.10"),
        *("--python-platform", "aarch64-manylinux_2_35"),
        *("--only-binary", ":all:"),
    ]
    assert machine(make_platform(architecture="amd64")) == "x86_64"


@pytest.mark.parametrize("architecture", ["arm64", "amd64"])
def test_uv_knows_the_platform_of_every_distribution(architecture: str) -> None:
    text = run([uv(), "pip", "compile", "--help"], env={"COLUMNS": "200"}).stdout
    known = set(re.findall(r"\w+-manylinux_\d+_\d+", text))
    needed = {uv_flags(make_platform(glibc=d.glibc, architecture=architecture))[3] for d in distributions()}
    assert needed <= known

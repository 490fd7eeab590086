"""Why a wheel of an index cannot be taken for a cell, and that uv agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_platform
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag

from builder.host.index_rows import DEFAULT
from builder.lock.compatibility import judge
from builder.lock.uv_target import tags
from builder.remote.index.listing import Index, IndexFile

if TYPE_CHECKING:
    from builder.model.platforms import Platform

JET = Index(name="jet", addresses=(), foreign_files=("/root/pypi/",))
PUBLIC = Index(name=DEFAULT, addresses=())
JETSON = make_jetson()  # Python 3.10, glibc 2.35


def wheel(tag: str = "py3-none-any", version: str = "1.0", **facts: Any) -> IndexFile:
    name = f"demo-{version}-{tag}.whl"
    return IndexFile(filename=name, **({"url": f"https://index.example/f/{name}", "sha256": "a" * 64} | facts))


def why(file: IndexFile, index: Index = JET, platform: Platform = JETSON, **more: Any) -> str | None:
    (judged,) = judge([file], index, platform, **more)
    return judged.unfit


@pytest.mark.parametrize(
    "tag",
    [
        "py3-none-any",
        "py2.py3-none-any",
        "py310-none-any",
        "cp310-cp310-linux_aarch64",
        "cp310-cp310-manylinux_2_35_aarch64",
        "cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64",
        "cp38-abi3-manylinux_2_28_aarch64",
        "cp310-none-linux_aarch64",
        "cp39.cp310-cp310-manylinux2014_aarch64",
        "cp310-cp310-manylinux_2_17_x86_64.manylinux_2_17_aarch64",
        "py3-none-manylinux_2_34_aarch64",
    ],
)
def test_what_fits_a_jetson(tag: str) -> None:
    assert why(wheel(tag)) is None


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("cp312-cp312-linux_aarch64", "it is for cp312-cp312, the cell has cp310"),
        ("cp312-abi3-manylinux_2_28_aarch64", "it is for cp312-abi3, the cell has cp310"),
        ("cp310-cp310t-linux_aarch64", "it is for cp310-cp310t, the cell has cp310"),
        ("pp310-pypy310_pp73-linux_aarch64", "it is for pp310-pypy310_pp73, the cell has cp310"),
        ("py2-none-any", "it is for py2-none, the cell has cp310"),
        ("cp311.cp312-none-any", "it is for cp311-none, cp312-none, the cell has cp310"),
        ("cp310-cp310-manylinux_2_38_aarch64", "it needs glibc 2.38, the cell has 2.35"),
        ("cp310-cp310-manylinux_2_39_aarch64.manylinux_2_36_aarch64", "it needs glibc 2.36, the cell has 2.35"),
        ("cp310-cp310-musllinux_1_2_aarch64", "it is for musl, the cell has glibc"),
        (
            "cp312-cp312-manylinux_2_38_aarch64",
            "it is for cp312-cp312, the cell has cp310; it needs glibc 2.38, the cell has 2.35",
        ),
        ("cp310-cp310-manylinux_2_17_x86_64", "it is for manylinux_2_17_x86_64, the cell is aarch64"),
        ("cp310-cp310-linux_armv7l", "it is for linux_armv7l, the cell is aarch64"),
        ("cp310-cp310-macosx_11_0_arm64", "it is for macosx_11_0_arm64, the cell is aarch64"),
        ("cp310-cp310-win_arm64", "it is for win_arm64, the cell is aarch64"),
        ("cp310-cp310-any", "its tags are not compatible together: cp310-cp310-any"),
        ("py3-none-manylinux1_x86_64.win_amd64", "it is for manylinux1_x86_64, win_amd64, the cell is aarch64"),
    ],
)
def test_what_tags_say(tag: str, says: str) -> None:
    assert why(wheel(tag)) == says


def test_a_mac_is_no_linux_of_the_same_machine() -> None:
    cell = make_platform(architecture="amd64")
    assert why(wheel("cp311-cp311-macosx_10_9_x86_64"), platform=cell) == (
        "it is for macosx_10_9_x86_64, the cell is x86_64"
    )
    assert why(wheel("cp311-cp311-manylinux1_x86_64"), platform=cell) is None


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (
            {"url": "https://index.example/root/pypi/+f/x.whl"},
            "it is the public index's build, which this index only mirrors",
        ),
        ({"yanked": ""}, "it was yanked"),
        ({"yanked": "broken build"}, "it was yanked: broken build"),
        ({"requires_python": ">=3.11"}, "it requires Python >=3.11, the cell has 3.10"),
        ({"requires_python": "<3.10"}, "it requires Python <3.10, the cell has 3.10"),
        ({"requires_python": ">=3.10.4"}, "it requires Python >=3.10.4, the cell has 3.10"),
        (
            {"upload_time": "2026-11-01T00:00:00Z"},
            "it was uploaded on 2026-11-01, the recipe excludes files from 2026-11-01 on",
        ),
    ],
)
def test_what_the_index_says(facts: dict[str, Any], says: str) -> None:
    assert why(wheel(**facts), before="2026-11-01") == says


@pytest.mark.parametrize(
    "facts",
    [
        {"requires_python": ">=3.9,<3.13"},
        {"requires_python": "whatever"},
        {"upload_time": "2026-10-31T23:59:59Z"},
        {"url": "https://index.example/f/x.whl?from=/root/pypi/"},
    ],
)
def test_what_is_nothing_against_a_wheel(facts: dict[str, Any]) -> None:
    assert why(wheel(**facts), before="2026-11-01") is None


def test_a_date_needs_upload_times_of_uvs_own_index_only() -> None:
    assert why(wheel(), JET, before="2026-11-01") is None
    assert "has no upload time for it" in (why(wheel(), PUBLIC, before="2026-11-01") or "")
    assert why(wheel(), PUBLIC) is None


def test_what_was_yanked_may_be_asked_for_by_its_version() -> None:
    assert why(wheel(yanked="bad"), yanked_too=True) is None
    assert why(wheel("cp312-cp312-linux_aarch64", yanked="bad"), yanked_too=True)


def test_a_file_without_a_hash_fits_where_no_file_has_one() -> None:
    bare, other = wheel(sha256=None), wheel(version="2.0", sha256=None)
    assert [judged.unfit for judged in judge([bare, other], JET, JETSON)] == [None, None]
    judged = judge([bare, wheel(version="2.0")], JET, JETSON)
    assert [one.unfit for one in judged] == ["the index has no sha256 for it, but for other files", None]


def test_what_the_index_says_comes_before_what_tags_say() -> None:
    assert why(wheel("cp312-cp312-linux_aarch64", yanked="")) == "it was yanked"


def test_only_wheels_are_judged_in_their_order() -> None:
    names = [
        "demo-1.0.tar.gz",
        "demo-1.0-py3-none-any.whl",
        "demo.whl",
        "demo-x-py3-none-any.whl",
        "demo-2.0+cu126-py3-none-any.whl",
    ]
    files = [IndexFile(filename=name, url=f"https://x/{name}", sha256="a" * 64) for name in names]
    assert [str(judged.version) for judged in judge(files, JET, JETSON)] == ["1.0", "2.0+cu126"]


@given(st.sampled_from(tags(JETSON)))
def test_every_tag_that_fits_is_said_to_fit(tag: Tag) -> None:
    assert why(wheel(str(tag))) is None


@given(
    st.sampled_from(["cp310", "cp311", "py3", "cp38"]),
    st.sampled_from(["cp310", "cp311", "abi3", "none"]),
    st.sampled_from(["any", "linux_aarch64", "linux_x86_64", "manylinux_2_17_aarch64", "manylinux_2_36_aarch64"]),
)
def test_a_wheel_is_unfit_exactly_if_no_tag_fits_and_then_with_words(python: str, abi: str, platform: str) -> None:
    said = why(wheel(f"{python}-{abi}-{platform}"))
    assert (said is None) == (Tag(python, abi, platform) in tags(JETSON))
    assert said is None or said.startswith(("it ", "its tags "))

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.errors import DocumentError
from builder.host.process import run
from builder.jetson.distributions import StandalonePython, distributions, platforms, pythons, standalone
from builder.lock.solve import uv

if TYPE_CHECKING:
    from pathlib import Path

GOOD_DISTRIBUTION = """[[distributions]]
name = "debian-12"
release = "bookworm"
python = "3.11"
glibc = "2.36"
glibcxx = "3.4.30"
image = "docker.io/library/debian:bookworm-slim"
python-packages = ["python3"]
source = "somewhere"
"""
GOOD_PLATFORM = """[[platforms]]
l4t = "36.4.0"
jetpack = "6.1"
distribution = "ubuntu-22.04"
cuda = "12.6"
cuda-published = ["12.6"]
sms = ["8.7"]
base = "nvcr.io/nvidia/l4t-jetpack:r36.4.0"
source = "somewhere"
"""


def test_every_release_that_is_known() -> None:
    releases = {row.l4t: (row.jetpack, row.cuda, row.distribution, row.sms) for row in platforms()}
    old, orin, thor, both = ("7.2", "8.7"), ("8.7",), ("11.0",), ("8.7", "11.0")
    assert releases == {
        "35.1.0": ("5.0.2", "11.4", "ubuntu-20.04", old),
        "35.2.1": ("5.1", "11.4", "ubuntu-20.04", old),
        "35.3.1": ("5.1.1", "11.4", "ubuntu-20.04", old),
        "35.4.1": ("5.1.2", "11.4", "ubuntu-20.04", old),
        "35.5.0": ("5.1.3", "11.4", "ubuntu-20.04", old),
        "35.6.0": ("5.1.4", "11.4", "ubuntu-20.04", old),
        "35.6.1": ("5.1.5", "11.4", "ubuntu-20.04", old),
        "35.6.2": ("5.1.5", "11.4", "ubuntu-20.04", old),
        "35.6.4": ("5.1.6", "11.4", "ubuntu-20.04", old),
        "36.2.0": ("6.0 DP", "12.2", "ubuntu-22.04", orin),
        "36.3.0": ("6.0", "12.2", "ubuntu-22.04", orin),
        "36.4.0": ("6.1", "12.6", "ubuntu-22.04", orin),
        "36.4.3": ("6.2", "12.6", "ubuntu-22.04", orin),
        "36.4.4": ("6.2.1", "12.6", "ubuntu-22.04", orin),
        "36.4.7": ("6.2.1", "12.6", "ubuntu-22.04", orin),
        "36.5.0": ("6.2.2", "12.6", "ubuntu-22.04", orin),
        "38.2.0": ("7.0", "13.0", "ubuntu-24.04", thor),
        "38.2.1": ("7.0", "13.0", "ubuntu-24.04", thor),
        "38.2.2": ("7.0", "13.0", "ubuntu-24.04", thor),
        "38.4.0": ("7.1", "13.0", "ubuntu-24.04", thor),
        "39.2.0": ("7.2", "13.2", "ubuntu-24.04", both),
    }


def test_releases_without_an_image_use_one_that_exists() -> None:
    bases = {row.l4t: row.base.rpartition("/")[2] for row in platforms()}
    assert {bases[l4t] for l4t in ("35.4.1", "35.5.0", "35.6.4")} == {"l4t-jetpack:r35.4.1"}
    assert {bases[l4t] for l4t in ("36.4.0", "36.4.3", "36.4.7", "36.5.0")} == {"l4t-jetpack:r36.4.0"}
    assert {bases[l4t] for l4t in ("38.2.0", "38.4.0", "39.2.0")} == {"ubuntu:24.04"}


def test_every_row_has_a_source_and_rows_are_in_order() -> None:
    assert all(row.source for row in distributions())
    assert all(row.source for row in platforms())
    releases = [tuple(map(int, row.l4t.split("."))) for row in platforms()]
    assert releases == sorted(releases)


def test_python_packages_bring_the_interpreter() -> None:
    for row in distributions():
        assert f"python{row.python}" in row.python_packages


def test_pythons_that_are_fetched_are_none_that_the_distribution_packages() -> None:
    for row in distributions():
        assert row.python not in row.standalone
        assert len(set(row.standalone)) == len(row.standalone)


@pytest.mark.parametrize(
    ("row", "key", "message", "hint"),
    [
        ('python = "3.13"\nsource = "x"', "python", "pythons.toml has no Python 3.13", "did you mean `3.12`?"),
        ('python = "3.12"', "", "`source` is missing", "add `source = …` (a source)"),
        (
            'python = 3.12\nsource = "x"',
            "python",
            "must be a version such as 3.12, not a number",
            'write it in quotes: "3.12"',
        ),
        ('python = "3.12"\nsource = "x"\nwhy = "y"', "why", "unknown key `why`", "valid here: python, source"),
    ],
)
def test_bad_rows_of_pythons_to_fetch(tmp_path: Path, row: str, key: str, message: str, hint: str) -> None:
    path = tmp_path / "distributions.toml"
    path.write_text(f"{GOOD_DISTRIBUTION}\n[[distributions.standalone]]\n{row}\n", encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        distributions(path)
    key_path = "distributions[0].standalone[0]" + (f".{key}" if key else "")
    assert (key_path, message, hint) in [(p.key, p.message, p.hint) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "message"),
    [
        ('l4t = "36.4.0"', 'l4t = "r36.4"', 2, "platforms[0].l4t", "`r36.4` is not a release such as 36.4.0"),
        ('cuda = "12.6"', "cuda = 12.6", 5, "platforms[0].cuda", "must be a version such as 12.6, not a number"),
        ('sms = ["8.7"]', "sms = []", 7, "platforms[0].sms", "`sms` must not be empty"),
        ('"ubuntu-22.04"', '"ubuntu-22"', 4, "platforms[0].distribution", "unknown distribution `ubuntu-22`"),
        ('source = "somewhere"\n', "", 1, "platforms[0]", "`source` is missing"),
        ("source", "sorce", 9, "platforms[0].sorce", "unknown key `sorce`"),
        (":r36.4.0", "", 8, "platforms[0].base", "`nvcr.io/nvidia/l4t-jetpack` is not an image reference with a tag"),
    ],
)
def test_bad_platform_rows(tmp_path: Path, old: str, new: str, line: int, key: str, message: str) -> None:
    path = tmp_path / "platforms.toml"
    path.write_text(GOOD_PLATFORM.replace(old, new), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        platforms(path)
    assert (line, key, message) in [(p.line, p.key, p.message) for p in caught.value.problems]


def test_rows_that_are_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "rows.toml"
    path.write_text(GOOD_PLATFORM * 2, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        platforms(path)
    assert [p.message for p in caught.value.problems] == ["`36.4.0` is listed twice"]
    path.write_text(GOOD_DISTRIBUTION * 2, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        distributions(path)
    assert [p.line for p in caught.value.problems] == [11]


GOOD = f"""[[pythons]]
python = "3.12"
version = "3.12.16"
build = "20261110"
sha256 = {{ arm64 = "{"a" * 64}", amd64 = "{"b" * 64}" }}
source = "somewhere"
"""


def test_rows() -> None:
    assert all(row.source for row in pythons())
    assert standalone("3.12").release == f"{standalone('3.12').version}+{standalone('3.12').build}"
    with pytest.raises(KeyError):
        standalone("2.7")


@pytest.mark.parametrize("row", pythons(), ids=lambda row: row.python)
def test_addresses_are_those_that_uv_has(row: StandalonePython) -> None:
    asked = ["python", "list", "--only-downloads", "--all-versions", "--all-arches", "--no-config", "--offline"]
    answer = run([uv(), *asked, "--output-format", "json", row.version], env={"UV_PYTHON_DOWNLOADS": "automatic"})
    tails = {entry["url"].partition("/releases/download/")[2] for entry in json.loads(answer.stdout)}
    for architecture, machine in (("arm64", "aarch64"), ("amd64", "x86_64")):
        url = row.url(architecture)  # type: ignore[arg-type]
        assert f"-{machine}-unknown-linux-gnu-install_only" in url
        assert url.partition("/releases/download/")[2] in tails


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ('"3.12"', '"3.12.1"', "pythons[0].python", "`3.12.1` is not a version such as 3.12"),
        ('"3.12"', '"3.11"', "pythons[0].version", "3.12.16 is not a release of Python 3.11"),
        ("20261110", "november", "pythons[0].build", "`november` is not a day such as 20261110"),
        (f', amd64 = "{"b" * 64}"', "", "pythons[0].sha256", "must name the archives of arm64 and amd64"),
        ("a" * 64, "abc", "pythons[0].sha256.arm64", "`abc` is not a sha256 by architecture"),
        ("arm64", "riscv", "pythons[0].sha256.riscv", "`riscv` is not arm64 or amd64"),
        ('source = "somewhere"\n', "", "pythons[0]", "`source` is missing"),
        ("source", "sorce", "pythons[0].sorce", "unknown key `sorce`"),
    ],
)
def test_bad_rows(tmp_path: Path, old: str, new: str, key: str, message: str) -> None:
    path = tmp_path / "pythons.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        pythons(path)
    assert (key, message) in [(p.key, p.message) for p in caught.value.problems]


def test_a_version_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "pythons.toml"
    path.write_text(GOOD * 2, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        pythons(path)
    assert [(p.line, p.message) for p in caught.value.problems] == [(8, "`3.12` is listed twice")]

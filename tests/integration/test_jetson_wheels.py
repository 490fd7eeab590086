"""The wheels of the stand-in for the Jetson AI Lab index: true names and requirements, the same bytes everywhere."""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest
from jetson_client import CU126, TORCH, TORCH_SHA256
from jetson_wheels import index_table, make_sets
from packaging.metadata import Metadata
from packaging.utils import canonicalize_name, parse_wheel_filename
from tiny_elf import shared_object

if TYPE_CHECKING:
    from pathlib import Path


def test_every_row_makes_wheels_that_say_what_their_names_say(jetson_sets: Path) -> None:
    made = [
        path for name in index_table().cuda if not name.startswith("traps/") for path in (jetson_sets / name).iterdir()
    ]
    assert len(made) > 60
    for path in made:
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            found = Metadata.from_email(archive.read(f"{'-'.join(path.name.split('-')[:2])}.dist-info/METADATA"))
            assert not any(
                part.endswith("/__init__.py") and b"raise ImportError" not in archive.read(part)
                for part in archive.namelist()
            )
        assert (canonicalize_name(found.name), found.version) == (name, version)
        assert {tag.platform for tag in tags} <= {"linux_aarch64", "any"}
        assert path.stat().st_size < 12_000


def test_the_table_has_what_the_real_index_was_seen_to_have(jetson_sets: Path) -> None:
    assert {path.name for path in (jetson_sets / CU126).iterdir()} >= {
        *(
            f"torch-{version}-cp310-cp310-linux_aarch64.whl"
            for version in ("2.6.0", "2.7.0", "2.8.0", "2.9.0", "2.10.0")
        ),
        *(f"torchvision-0.{minor}.0-cp310-cp310-linux_aarch64.whl" for minor in range(21, 26)),
        "triton-3.4.0-cp310-cp310-linux_aarch64.whl",
        "flash_attn-2.8.2-cp310-cp310-linux_aarch64.whl",
        "flash_attn-2.8.4-cp310-cp310-linux_aarch64.whl",
        "xformers-0.0.32+8ed0992.d20250724-cp39-abi3-linux_aarch64.whl",
        "flashinfer_python-0.3.1-cp310-cp310-linux_aarch64.whl",
        "vllm-0.9.3+cu126-cp310-cp310-linux_aarch64.whl",
        "vllm-0.10.2+cu126-cp310-cp310-linux_aarch64.whl",
        "vllm-0.20.0-cp310-cp310-linux_aarch64.whl",
    }
    assert list((jetson_sets / "jp7/cu130").iterdir()) == []
    for cuda in ("cu128", "cu129"):
        pythons = {path.name.split("-")[2] for path in (jetson_sets / f"jp6/{cuda}").iterdir()}
        assert pythons == {"cp310", "cp312"}
    assert (jetson_sets / "sbsa/cu130/vllm-0.11.2+cu130-cp312-cp312-linux_aarch64.whl").is_file()


@pytest.mark.parametrize(
    ("version", "torch", "vision", "transformers"),
    [
        ("0.9.3+cu126", "2.7.0", "0.22.0", "transformers>=4.51.1"),
        ("0.10.2+cu126", "2.8.0", "0.23.0", "transformers>=4.55.2"),
        ("0.20.0", "2.11.0", "0.26.0", "transformers!=5.0.*,!=5.1.*,!=5.2.*,!=5.3.*,!=5.4.*,!=5.5.0,>=4.56.0"),
    ],
)
def test_vllm_asks_for_what_its_release_asks_for(
    jetson_sets: Path, version: str, torch: str, vision: str, transformers: str
) -> None:
    with zipfile.ZipFile(jetson_sets / CU126 / f"vllm-{version}-cp310-cp310-linux_aarch64.whl") as archive:
        text = archive.read(f"vllm-{version}.dist-info/METADATA").decode()
    asked = set(re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE))
    assert asked >= {f"torch=={torch}", f"torchaudio=={torch}", f"torchvision=={vision}", transformers}


def test_a_vllm_built_for_an_existing_torch_names_none(jetson_sets: Path) -> None:
    with zipfile.ZipFile(jetson_sets / "traps/unpinned/vllm-0.10.2+cu126-cp310-cp310-linux_aarch64.whl") as archive:
        text = archive.read("vllm-0.10.2+cu126.dist-info/METADATA").decode()
    assert "Requires-Dist: transformers>=4.55.2\n" in text
    assert "torch" not in text


@pytest.mark.parametrize(("name", "cuda"), [(CU126, "12.6"), ("jp6/cu128", "12.8"), ("sbsa/cu130", "13.0")])
def test_torch_looks_like_a_cuda_build(jetson_sets: Path, name: str, cuda: str) -> None:
    for path in (jetson_sets / name).glob("torch-*.whl"):
        with zipfile.ZipFile(path) as archive:
            assert f"\ncuda: Optional[str] = '{cuda}'\n" in archive.read("torch/version.py").decode()
            assert b"stand-in" in archive.read("torch/lib/libtorch_cuda.so")


def test_wheels_are_the_same_on_every_machine(jetson_sets: Path, tmp_path: Path) -> None:
    again = make_sets(tmp_path / "again", CU126)
    assert [path.name for path in again.glob("*/*")] == ["cu126"]
    for path in (again / CU126).iterdir():
        assert path.read_bytes() == (jetson_sets / CU126 / path.name).read_bytes()
    assert hashlib.sha256((again / CU126 / TORCH).read_bytes()).hexdigest() == TORCH_SHA256


@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not installed")
def test_a_wheel_needs_a_newer_c_library_than_its_tag_tells(jetson_sets: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(jetson_sets / "jp6/cu129/flash_attn-2.8.4-cp312-cp312-linux_aarch64.whl") as archive:
        path = archive.extract("flash_attn_2_cuda.so", tmp_path)
    done = subprocess.run(["readelf", "-hdV", path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert re.search(r"Machine: +AArch64", done.stdout)
    assert re.search(r"NEEDED.*\[libc\.so\.6\]", done.stdout)
    assert re.search(r"Name: GLIBC_2\.38 ", done.stdout)


def test_the_shared_object_has_the_hash_that_a_loader_compares() -> None:
    """The value is what a compiler writes for this version, which nearly every program needs."""
    assert struct.pack("<I", 0x09691A75) in shared_object("x.so", "GLIBC_2.2.5")

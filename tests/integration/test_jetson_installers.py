"""What uv and pip make of the stand-in for the Jetson AI Lab index: the same as of the real one."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from installers import compile_with_uv, locked_urls, needs_pip, run_pip
from jetson_client import CU126, TORCH, TORCH_FILE, TORCH_SHA256
from jetson_index import JetsonIndex, running_jetson_index

if TYPE_CHECKING:
    from pathlib import Path

    from index_server import Index


def test_uv_takes_jetson_builds_from_it(jetson_index: JetsonIndex, public_index: Index, tmp_path: Path) -> None:
    flags = ("--index", jetson_index.url(CU126), "--default-index", f"http://{public_index.host}/simple")
    urls = locked_urls(compile_with_uv(tmp_path, "torchvision==0.23.0", *flags))
    assert urls["torch"] == [f"http://{jetson_index.host}{TORCH_FILE}"]
    assert all(jetson_index.host in url for url in urls["torchvision"])
    assert all(public_index.host in url for url in urls["numpy"])
    # Metadata by range, as uv does where there are no metadata files.
    assert {each.status for each in jetson_index.asked(rf"GET {re.escape(TORCH_FILE)}")} == {206}
    assert not jetson_index.asked(r"\.metadata")


@pytest.mark.parametrize("suffix", ["/+simple", ""])
def test_uv_finds_a_set_by_each_of_its_addresses(jetson_index: JetsonIndex, tmp_path: Path, suffix: str) -> None:
    flags = ("--no-deps", "--default-index", f"http://{jetson_index.host}/{CU126}{suffix}")
    urls = locked_urls(compile_with_uv(tmp_path, "torch==2.8.0", *flags))
    assert urls["torch"] == [f"http://{jetson_index.host}{TORCH_FILE}"]


def test_uv_takes_the_newest_torch_for_what_names_none(
    jetson_index: JetsonIndex, public_index: Index, tmp_path: Path
) -> None:
    flags = ("--index", jetson_index.url(CU126), "--default-index", f"http://{public_index.host}/simple")
    (url,) = locked_urls(compile_with_uv(tmp_path, "flash-attn==2.8.4", *flags))["torch"]
    assert url.endswith("/torch-2.10.0-cp310-cp310-linux_aarch64.whl")


def test_uv_takes_local_versions_and_refuses_other_pythons(jetson_index: JetsonIndex, tmp_path: Path) -> None:
    flags = ("--no-deps", "--default-index", jetson_index.url(CU126))
    (url,) = locked_urls(compile_with_uv(tmp_path, "vllm==0.9.3", *flags))["vllm"]
    assert url.endswith("/vllm-0.9.3+cu126-cp310-cp310-linux_aarch64.whl")
    done = compile_with_uv(tmp_path, "flashinfer-python==0.2.9", *flags)
    assert done.returncode == 1
    assert "only found wheels for `flashinfer-python` (v0.2.9)" in done.stderr
    assert "`cp312`" in done.stderr
    for name in ("jp7/cu130", "jp5/cu114"):
        done = compile_with_uv(tmp_path, "torch", "--no-deps", "--default-index", jetson_index.url(name))
        assert (done.returncode, "torch was not found" in done.stderr) == (1, True)


def test_uv_takes_the_public_build_where_the_public_index_comes_first(
    jetson_index: JetsonIndex, public_index: Index, tmp_path: Path
) -> None:
    """The trap: nothing but the order of indexes tells the builds apart."""
    flags = ("--index", f"http://{public_index.host}/simple", "--default-index", jetson_index.url(CU126))
    urls = locked_urls(compile_with_uv(tmp_path, "torchvision==0.23.0", *flags))
    assert urls["torch"] == [f"http://{public_index.host}/files/torch-2.8.0-cp310-cp310-manylinux_2_28_aarch64.whl"]
    assert not jetson_index.asked("torch")


def test_uv_works_without_ranges_and_with_a_log_in(jetson_sets: Path, public_index: Index, tmp_path: Path) -> None:
    with running_jetson_index(jetson_sets, plain=True, answers_json=True, user="me:hush") as index:
        jetson = index.url(CU126).replace("//", "//me:hush@")
        flags = ("--index", jetson, "--default-index", f"http://{public_index.host}/simple")
        urls = locked_urls(compile_with_uv(tmp_path, "torch==2.8.0", *flags))
        assert urls["torch"] == [f"http://{index.host}{TORCH_FILE}"]
        assert {each.status for each in index.asked(r"GET .*\.whl") if each.authorized} == {200}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("traps/lying-name", "metadata name `torchaudio` does not match given name `torchvision`"),
        ("traps/truncated", "torchvision-0.23.0-cp310-cp310-linux_aarch64.whl"),
    ],
)
def test_uv_sees_what_is_wrong_with_a_wheel(
    jetson_index: JetsonIndex, public_index: Index, tmp_path: Path, name: str, said: str
) -> None:
    flags = ("--index", jetson_index.url(name), "--default-index", f"http://{public_index.host}/simple")
    done = compile_with_uv(tmp_path, "torchvision==0.23.0", *flags)
    # uv breaks lines at $COLUMNS.
    assert (done.returncode, said in " ".join(done.stderr.split())) == (1, True), done.stderr


def test_uv_does_not_see_a_wrong_version_and_locks_both_files_of_one_name(
    jetson_index: JetsonIndex, public_index: Index, tmp_path: Path
) -> None:
    """Whoever locks with uv has to look for these two."""
    default = ("--default-index", f"http://{public_index.host}/simple")
    done = compile_with_uv(
        tmp_path, "torchvision==0.23.0", "--index", jetson_index.url("traps/lying-version"), *default
    )
    assert 'version = "0.23.0"' in done.stdout
    urls = locked_urls(
        compile_with_uv(tmp_path, "torch==2.8.0", "--index", jetson_index.url("traps/two-hashes"), *default)
    )
    assert [url.rpartition("/")[2] for url in urls["torch"]] == [TORCH, TORCH]


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("503", 2, "503 Service Unavailable"),
        ("reset", 2, "Connection reset"),
        ("cut", 2, "end of file before message length reached"),
        ("wrong-type", 1, "Unsupported `Content-Type`"),
        # Not a word of the index: it looks as if there were no such version.
        ("garbage", 1, "there is no version of torchvision==0.23.0"),
        ("empty", 1, "there is no version of torchvision==0.23.0"),
    ],
)
def test_what_uv_says_of_faults(jetson_index: JetsonIndex, tmp_path: Path, fault: str, code: int, said: str) -> None:
    jetson_index.fails(r"/\+simple/torchvision/", fault, times=None)
    done = compile_with_uv(tmp_path, "torchvision==0.23.0", "--no-deps", "--default-index", jetson_index.url(CU126))
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@needs_pip
def test_pip_lists_versions(jetson_index: JetsonIndex) -> None:
    target = ("--python-version", "3.10", "--platform", "linux_aarch64", "--only-binary", ":all:")
    done = run_pip("index", "versions", "torch", "--index-url", jetson_index.url(CU126), *target)
    assert "Available versions: 2.10.0, 2.9.1, 2.9.0, 2.8.0, 2.7.0, 2.6.0" in done.stdout, done.stderr


@needs_pip
def test_pip_downloads_from_it_and_prefers_the_public_build(
    jetson_index: JetsonIndex, public_index: Index, tmp_path: Path
) -> None:
    """The trap as pip has it: a device's own tags name manylinux before linux, so the public build wins."""
    tags = ("--platform", "manylinux_2_28_aarch64", "--platform", "linux_aarch64")
    target = (*tags, "--python-version", "3.10", "--only-binary", ":all:", "--no-deps")
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    done = run_pip("download", "torch==2.8.0", "--index-url", jetson_index.url(CU126), *target, "--dest", str(alone))
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((alone / TORCH).read_bytes()).hexdigest() == TORCH_SHA256
    extra = ("--extra-index-url", f"http://{public_index.host}/simple")
    done = run_pip(
        "download", "torch==2.8.0", "--index-url", jetson_index.url(CU126), *extra, *target, "--dest", str(beside)
    )
    assert [path.name for path in beside.iterdir()] == ["torch-2.8.0-cp310-cp310-manylinux_2_28_aarch64.whl"]

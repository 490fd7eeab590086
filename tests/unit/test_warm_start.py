"""Compiled files of a warm image: taken where they fit, ignored where they don't."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from builder.image.runtime import scripts, server_json
from builder.image.runtime.settings import Settings
from builder.image.runtime.warm_start import choices, conditions, take
from builder.model.recipes import Model, ServerSpec, Spec

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = Settings(model="/models/tiny", arguments=("--host=0.0.0.0", "--port=8000", "--max-model-len=2048"))
ENVIRONMENT = {
    "VLLM_USE_DEEP_GEMM": "0",
    "VLLM_API_KEY": "secret",
    "PATH": "/usr/bin",
    "VLLM_CACHE_ROOT": "/cache/vllm",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `/opt/jbuild` is in a warm image."""
    folder = tmp_path / "jbuild"
    graph = folder / "warm" / "cache" / "vllm" / "torch_compile_cache" / "model"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"graph")
    write_conditions(folder, conditions(SETTINGS, ENVIRONMENT))
    return folder


def write_conditions(folder: Path, wanted: dict[str, Any]) -> None:
    (folder / "warm" / "conditions.json").write_text(json.dumps(wanted))


def names(found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the options and of the variables."""
    return list(found["options"]), list(found["variables"])


def test_conditions_are_what_decides_about_compilations() -> None:
    found = conditions(SETTINGS, ENVIRONMENT)
    assert (found["sm"], found["driver"], found["model"], found["key"]) == (None, None, "/models/tiny", True)
    assert names(found) == (["--max-model-len"], ["VLLM_USE_DEEP_GEMM"])


def test_values_and_secrets_are_not_in_them() -> None:
    arguments = ("--api_key=SECRET", "--hf-token=SECRET", "--api-key", "SECRET", "SECRET", "--max-model-len=204800")
    environment = {"VLLM_X_PASSWORD": "SECRET", "TORCH_TOKEN": "SECRET", "VLLM_ATTENTION_BACKEND": "SECRET"}
    found = conditions(Settings(model="m", arguments=arguments), environment)
    assert names(found) == (["--max-model-len"], ["VLLM_ATTENTION_BACKEND"])
    assert "SECRET" not in json.dumps(found)
    assert "204800" not in json.dumps(found)


def test_both_spellings_of_an_option_are_one() -> None:
    one = choices(Settings(model="m", arguments=("--served-model-name", "a", "b", "--dtype", "float16")), {})
    two = choices(Settings(model="m", arguments=("--dtype=float16", "--host=::")), {})
    assert one == two
    assert one != choices(Settings(model="m", arguments=("--dtype=float32",)), {})


def test_words_decide_which_variables_count_not_parts_of_words() -> None:
    counting = (
        "VLLM_KV_CACHE_LAYOUT",
        "VLLM_LOGITS_PROCESSOR_THREADS",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES",
        "TORCHDYNAMO_DISABLE",
    )
    other = ("VLLM_CACHE_ROOT", "VLLM_LOGGING_LEVEL", "CUDA_VISIBLE_DEVICES", "TRITON_LIBCUDA_PATH", "HOME")
    found = choices(SETTINGS, dict.fromkeys((*counting, *other), "1"))
    assert list(found["variables"]) == sorted(counting)


def test_containers_that_copy_at_once_do_not_meet(folder: Path, tmp_path: Path) -> None:
    source = folder / "warm" / "cache" / "vllm" / "torch_compile_cache" / "model"
    source.write_bytes(b"graph" * 1_000_000)
    with ThreadPoolExecutor(8) as pool:
        lines = list(pool.map(lambda _: take(SETTINGS, ENVIRONMENT, folder, tmp_path / "cache"), range(8)))
    assert all("cannot be used" not in line for line in lines)
    taken = tmp_path / "cache" / "vllm" / "torch_compile_cache"
    assert [path.name for path in taken.iterdir()] == ["model"]
    assert (taken / "model").read_bytes() == source.read_bytes()


def test_files_are_copied_once_and_keep_what_the_cache_has(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert take(SETTINGS, ENVIRONMENT, folder, cache) == "took 1 cached file from the image"
    taken = cache / "vllm" / "torch_compile_cache" / "model"
    assert taken.read_bytes() == b"graph"
    taken.write_bytes(b"of this machine")
    assert take(SETTINGS, ENVIRONMENT, folder, cache) == "the cache has the image's files already"
    assert taken.read_bytes() == b"of this machine"
    assert [path.name for path in taken.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sm", "9.0", "SM: 9.0, here none"),
        ("driver", "13.0", "CUDA of the driver: 13.0, here none"),
        ("model", "/models/other", "model: /models/other, here /models/tiny"),
        ("options", {}, "options that differ: --max-model-len"),
        ("options", {"--max-model-len": "0", "--dtype": "1"}, "options that differ: --dtype, --max-model-len"),
        ("variables", {}, "variables that differ: VLLM_USE_DEEP_GEMM"),
        ("key", False, "VLLM_API_KEY is set, and vLLM compiles anew for each value of it"),
    ],
)
def test_files_of_other_conditions_are_ignored(folder: Path, tmp_path: Path, key: str, value: Any, said: str) -> None:
    write_conditions(folder, conditions(SETTINGS, ENVIRONMENT) | {key: value})
    line = take(SETTINGS, ENVIRONMENT, folder, tmp_path / "cache")
    assert line == f"the image's cached files do not fit and are not used: {said}"
    assert not (tmp_path / "cache").exists()


def test_files_that_always_fit_are_taken_whatever_the_start_is(folder: Path, tmp_path: Path) -> None:
    info = folder / "warm" / "always" / "vllm" / "modelinfos" / "llama.json"
    info.parent.mkdir(parents=True)
    info.write_text("{}")
    cache = tmp_path / "cache"
    write_conditions(folder, conditions(SETTINGS, ENVIRONMENT) | {"sm": "9.0"})
    line = take(SETTINGS, ENVIRONMENT, folder, cache)
    refused = "do not fit and are not used: SM: 9.0, here none"
    assert line == f"took 1 cached file from the image; the others {refused}"
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["llama.json"]
    assert take(SETTINGS, ENVIRONMENT, folder, cache) == f"the image's cached files {refused}"
    shutil.rmtree(folder / "warm" / "cache")
    (folder / "warm" / "conditions.json").unlink()
    assert take(SETTINGS, ENVIRONMENT, folder, cache) == "the cache has the image's files already"
    assert take(SETTINGS, ENVIRONMENT, folder, tmp_path / "new") == "took 1 cached file from the image"


def test_an_image_without_cached_files_says_nothing(tmp_path: Path) -> None:
    assert take(SETTINGS, ENVIRONMENT, tmp_path, tmp_path / "cache") == ""


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_damaged_conditions_do_not_stop_the_server(folder: Path, tmp_path: Path, content: str) -> None:
    (folder / "warm" / "conditions.json").write_text(content)
    line = take(SETTINGS, ENVIRONMENT, folder, tmp_path / "cache")
    assert line.startswith("the image's cached files cannot be used: ")


def test_a_cache_that_cannot_be_written_does_not_stop_the_server(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    line = take(SETTINGS, ENVIRONMENT, folder, tmp_path / "cache")
    assert line.startswith("the image's cached files cannot be used: ")


def test_the_script_prints_the_conditions_of_its_container(tmp_path: Path) -> None:
    for script in scripts():
        shutil.copy(script, tmp_path)
    spec = Spec(models=(Model(name="tiny", source="./tiny"),), server=ServerSpec(max_model_len=512))
    (tmp_path / "server.json").write_text(server_json(spec))
    (tmp_path / "environ").write_bytes(
        b"PATH=/usr/bin\0JBUILD_EXTRA_ARGS=--enforce-eager\0TRITON_INTERPRET=1\0TRITON_LIBCUDA_PATH=/usr/lib\0"
        b"CUDA_VISIBLE_DEVICES=1\0"
    )
    program = "import warm_start, pathlib; warm_start.main(pathlib.Path('environ'))"
    argv = [sys.executable, "-SE", "-c", f"import sys; sys.path.insert(0, '.'); {program}"]
    environment = {"PATH": os.environ["PATH"], "TRITON_INTERPRET": "0"}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=100)
    found = json.loads(done.stdout)
    assert (found["sm"], found["model"], found["key"]) == (None, "/models/tiny", False)
    assert names(found) == (["--enforce-eager", "--max-model-len"], ["TRITON_INTERPRET"])

